// (token, slot) pairs sorted by expert: the rows that the grouped products work on.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace moeref::cuda {

/// Tokens, or rows, one after another.
struct RowRange {
  std::int64_t first, count;
};

/// Tokens in parts that can be worked on one after another, because they arrive so: of every `period` tokens
/// the first half() are chunk 0, twice as many chunk 1 and each one behind it, and what is left is the last
/// chunk's: half() again where a period has `usual` tokens and, behind them, nothing. The first and the last
/// are smaller because nothing is multiplied while the one arrives, nor while the other returns.
struct TokenChunks {
  int count;
  std::int64_t period, usual = period;
  constexpr std::int64_t half() const {
    const int halves = count > 1 ? 2 * (count - 1) : 1;
    return (usual + halves - 1) / halves;
  }
  /// The tokens of a period that are of `chunk`.
  constexpr RowRange range(int chunk) const {
    const auto before = [&](int n) {  // tokens of the first n chunks
      const std::int64_t halves = n > 0 ? 2 * n - 1 : 0, tokens = halves * half();
      return n == count || tokens > period ? period : tokens;
    };
    return {before(chunk), before(chunk + 1) - before(chunk)};
  }
};

/// Device arrays, filled by sort_by_expert. There is room for R = max_rows rows; offsets[experts * chunks] of
/// them are used. Where the slots need more, rows_needed says so and no slot has a row. Rows of one expert
/// are contiguous, those of its chunks too, and within a chunk they keep the order of their flat slot index t
/// * slots + j. Row tiles have at most `tile_rows` rows of one chunk.
struct Permutation {
  int* offsets;            // [experts, chunks] first row of each, and where the last one ends
  int* row_token;          // [R] token of a row
  int* row_slot;           // [R] flat slot of a row
  float* row_weight;       // [R] routing weight of a row
  int* slot_row;           // [tokens * slots] row of a flat slot, -1 where the slot is not routed
  int* expert_tile_begin;  // [chunks, experts + 1] first row tile of each expert
  int* tile_expert;        // [chunks, most_tiles] expert of each row tile
  int* rows_needed;        // one number
  int chunks;
  std::int64_t most_tiles;  // of a chunk
};

constexpr int kMostGroups = 1024;  // experts * chunks that can be sorted by

struct PermutationShape {
  std::int64_t tokens;
  int slots;
  int experts;
  int tile_rows;  // most rows of a row tile: a multiple of 16 up to 160, else of 32
  TokenChunks chunks = {1, tokens};
  std::int64_t max_rows = tokens * slots;
};

/// Row tiles that a chunk has at most: none is smaller than 16 rows but each expert's last.
constexpr std::int64_t most_tiles(const PermutationShape& shape) {
  return shape.max_rows / 16 + shape.experts + 1;
}

/// Bytes that `carve_permutation` takes for the arrays above, and that the sort needs besides.
std::size_t permutation_bytes(const PermutationShape& shape);
std::size_t sort_workspace_bytes(const PermutationShape& shape);
Permutation carve_permutation(const PermutationShape& shape, void* memory);

/// Counters that are 0 when the sort has ended.
struct Cleared {
  int* counters = nullptr;
  int count = 0;
};

/// Stable counting sort by expert and chunk. `ids` [tokens, slots], `weights` [tokens, slots], `token_mask`
/// [tokens] (1 = real) or null. Slots of masked tokens and ids outside [0, experts) contribute no row. The
/// result depends on the inputs alone, not on timing. Throws ArgumentError when tokens * slots or experts *
/// chunks is out of range.
void sort_by_expert(const PermutationShape& shape, const int* ids, const float* weights,
                    const std::uint8_t* token_mask, const Permutation& out, void* workspace,
                    cudaStream_t stream, const Cleared& cleared = {});

}  // namespace moeref::cuda
