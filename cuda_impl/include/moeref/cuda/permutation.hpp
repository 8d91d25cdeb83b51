// (token, slot) pairs sorted by expert: the rows that the grouped products work on.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace moeref::cuda {

/// Device arrays, filled by sort_by_expert. R = tokens * slots is the capacity in rows; offsets[experts] of
/// them are used. Rows of one expert are contiguous and keep the order of their flat slot index t * slots +
/// j.
struct Permutation {
  int* offsets;            // [experts + 1] first row of each expert
  int* row_token;          // [R] token of a row
  int* row_slot;           // [R] flat slot of a row
  float* row_weight;       // [R] routing weight of a row
  int* slot_row;           // [R] row of a flat slot, -1 where the slot is not routed
  int* expert_tile_begin;  // [experts + 1] first row tile of each expert, for tiles of at most `tile_rows`
                           // rows
  int* tile_expert;        // [R / 16 + experts] expert of each row tile
};

struct PermutationShape {
  std::int64_t tokens;
  int slots;
  int experts;
  int tile_rows;  // most rows of a row tile: a multiple of 16 up to 160, else of 32
};

/// Bytes that `carve_permutation` takes for the arrays above, and that the sort needs besides.
std::size_t permutation_bytes(const PermutationShape& shape);
std::size_t sort_workspace_bytes(const PermutationShape& shape);
Permutation carve_permutation(const PermutationShape& shape, void* memory);

/// Stable counting sort by expert. `ids` [tokens, slots], `weights` [tokens, slots], `token_mask` [tokens] (1
/// = real) or null. Slots of masked tokens and ids outside [0, experts) contribute no row. The result depends
/// on the inputs alone, not on timing. Throws ArgumentError when tokens * slots or experts is out of range.
void sort_by_expert(const PermutationShape& shape, const int* ids, const float* weights,
                    const std::uint8_t* token_mask, const Permutation& out, void* workspace,
                    cudaStream_t stream);

}  // namespace moeref::cuda
