// Batches that one token stands in many times, and what of its results differs from those that it has alone:
// for the property, and for those that measure how far a port is invariant.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moeref/tensor.hpp"

namespace moeref {

/// Token 0 at every second place from `first` (0 or 1) on, the other `tokens` - 1 in turn between, from
/// number `shift` on. With one token it stands everywhere.
std::vector<std::int64_t> crowd(std::int64_t size, std::int64_t first, std::int64_t tokens,
                                std::int64_t shift);

/// An element of token 0's results that has other bits in the batch than alone.
struct RowDifference {
  std::string tensor;
  std::int64_t place = 0, index = 0;  ///< the token's row, and the element in the batch's tensor
  double value = 0.0, alone = 0.0;
};

/// The first element, over all results that a call gives per token; nothing where the bits are the same.
std::optional<RowDifference> row_difference(const NamedTensors& alone, const NamedTensors& batch,
                                            std::span<const std::int64_t> order);

}  // namespace moeref
