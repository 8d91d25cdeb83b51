// Where the row tiles of the token products lie.
#pragma once

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"
#include "cuda_impl/permutation/tile_split.hpp"

namespace moeref::cuda::sm90 {

/// The rows of one expert and their split.
struct ExpertTiles {
  int expert, first_tile, begin, rows, size, count;  // `size` rows in each of `count` tiles but the last
};
__device__ __forceinline__ ExpertTiles tiles_around(const RowTiles& t, int tile_rows, int tile) {
  const int e = t.tile_expert[tile], begin = t.offsets[e * t.step], rows = t.offsets[e * t.step + 1] - begin,
            size = tile_size(rows, tile_rows);
  return {e, t.expert_tile_begin[e], begin, rows, size, (rows + size - 1) / size};
}

}  // namespace moeref::cuda::sm90
