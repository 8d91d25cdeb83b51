// The sort of sort_by_expert() for a few slots: by counting for each what comes before it.
#pragma once

#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

constexpr int kFewSlots = 64;

/// One chunk, a few slots, none of whose experts has more than one row tile.
constexpr bool sorts_few_slots(const PermutationShape& s) {
  return s.chunks.count == 1 && s.tokens * s.slots <= kFewSlots && s.tile_rows >= kFewSlots;
}
void sort_few_slots(const PermutationShape& shape, const int* ids, const float* weights,
                    const std::uint8_t* token_mask, const Permutation& out, const Cleared& cleared,
                    cudaStream_t stream);

}  // namespace moeref::cuda
