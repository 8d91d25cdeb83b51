// Extents as a dimension of the tests: the ladder of sizes at which kernels change their path, what a call of
// given extents costs, and how extents are drawn and lowered.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moeref/descriptor.hpp"

namespace moeref {

/// Of T, D, I and the latent width.
inline constexpr std::int64_t kLargestExtent = 1 << 20;

/// b - 1, b and b + 1 for every b, ascending. Tiles, warps, blocks of threads and shared memory end at these.
std::span<const std::int64_t> ladder();

/// The last step of the ladder below an extent, or one less where there is none.
std::int64_t step_below(std::int64_t extent);

/// What shrinking tries in place of an extent: 0, 1, the steps of the ladder below it, then it less a half, a
/// quarter, ... and 1, so that a bisection ends at the smallest extent that fails.
std::vector<std::int64_t> smaller_extents(std::int64_t extent);

/// About how many multiply-adds the forward and backward passes of a call take. What an element costs beside
/// its products (scores, activations) counts as some tens of them.
double multiply_adds(const Descriptor& descriptor);

/// Elements of the largest tensor of the call: an input, or one inside of it.
double largest_tensor(const Descriptor& descriptor);

/// Whether a call stays within the range.
bool fits(const Descriptor& descriptor, const SizeRange& range);

/// Draws extents of the ladder in place of those that the descriptor has. At Scale::small for some
/// descriptors alone, and nothing else changes; at the others the layer is one of the presets.
void draw_extents(Descriptor& descriptor, std::uint64_t bits, const SizeRange& range);

}  // namespace moeref
