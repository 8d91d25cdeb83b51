// How the rows of one expert are split into row tiles of at most `max_rows`. All tiles but the last have
// tile_size rows.
#pragma once

#include <cuda_runtime_api.h>

namespace moeref::cuda {

/// A tile of up to this many rows belongs to one block; a larger one to a cluster of two, each taking half of
/// its rows in steps of 16.
constexpr int kBlockRows = 160;

/// One block per tile: evenly, in multiples of 16 rows, so that 264 rows at a maximum of 160 make 144 + 120
/// and not 160 + 104. Clusters: the cheaper of an even split and of full tiles with a remainder, in multiples
/// of 32; a tile never costs less than half of a full one, because its weights have to come in for any number
/// of rows. 330 rows at 320 make 192 + 138; 2048 make 6 x 320 + 128.
__host__ __device__ constexpr int tile_size(int rows, int max_rows) {
  if (rows <= 0) return 0;
  const int count = (rows + max_rows - 1) / max_rows, step = max_rows > kBlockRows ? 32 : 16;
  const int even = ((rows + count - 1) / count + step - 1) / step * step;
  if (count == 1 || max_rows <= kBlockRows) return even;
  const int least = max_rows / 2, rest = rows - (count - 1) * max_rows;
  const int even_cost = count * (even > least ? even : least),
            full_cost = (count - 1) * max_rows + (rest > least ? rest : least);
  return even_cost < full_cost ? even : max_rows;
}

__host__ __device__ constexpr int tile_count(int rows, int max_rows) {
  const int size = tile_size(rows, max_rows);
  return size ? (rows + size - 1) / size : 0;
}

/// Rows of the first of the two blocks of a cluster.
__host__ __device__ constexpr int half_tile(int rows) { return ((rows + 1) / 2 + 15) / 16 * 16; }

}  // namespace moeref::cuda
