// How the rows of one expert are split into row tiles: evenly, in multiples of 16 rows, so that 264 rows at a maximum of
// 160 make 144 + 120 and not 160 + 104.
#pragma once

namespace moeref::cuda {

__host__ __device__ constexpr int tile_size(int rows, int max_rows) {
  const int count = (rows + max_rows - 1) / max_rows;
  const int even = (rows + (count ? count : 1) - 1) / (count ? count : 1);
  return (even + 15) / 16 * 16;
}

__host__ __device__ constexpr int tile_count(int rows, int max_rows) {
  const int size = tile_size(rows, max_rows);
  return size ? (rows + size - 1) / size : 0;
}

}  // namespace moeref::cuda
