// Tokens brought to the rows of their experts beside the product that multiplies these rows: by the warps of
// the producer's warpgroup that have nothing else to do. A kernel of its own for it keeps the tensor cores
// waiting for as long as the rows take to pass through memory twice.
//
// Warps draw groups of eight rows, in the order of the row tiles, from a counter of the launch, so that
// whichever blocks run, those copy what comes next. A tile's arrivals are counted; its producers wait for all
// of its rows. A warp that has drawn a group waits for nobody, so that every tile's rows come.
// Rows are written by ordinary stores and read by TMA, hence the proxy fences on both sides.
// Floor: R * dim * 2 bytes read and written. Measured figures: tools/bench/results.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/ptx.cuh"
#include "cuda_impl/grouped_gemm/sm90/row_tiles.cuh"

namespace moeref::cuda::sm90 {

/// rows[r] = tokens[row_token[r]] for the rows of a launch's tiles.
struct RowCopy {
  const uint4* tokens;  // null: there is nothing to copy
  uint4* rows;
  const int* row_token;
  int width;             // of a row, in units of 16 bytes
  int *drawn, *arrived;  // groups drawn; rows there of each tile. 0 before the launch
};

constexpr int kCopiedRows = 8, kLoadsInFlight = 4;

/// `left`: of the lane's place on, of the row's width. Loops stay loops: the producer's warpgroup has few
/// registers.
__device__ __forceinline__ void copy_row(const uint4* from, uint4* to, int left) {
#pragma unroll 1
  for (; left > 0; left -= 32 * kLoadsInFlight, from += 32 * kLoadsInFlight, to += 32 * kLoadsInFlight) {
    uint4 v[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) load_once_if(left > 32 * i, v[i], from + 32 * i);
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) store_if(left > 32 * i, to + 32 * i, v[i]);
  }
}

/// By whole warps, until no group is left.
__device__ __forceinline__ void copy_rows(const RowCopy& copy, const RowTiles& tiles, int tile_rows,
                                          int experts) {
  const int lane = threadIdx.x % 32, total = tiles.expert_tile_begin[experts],
            groups = tile_rows / kCopiedRows;  // of a full tile
  const auto draw = [&] { return lane == 0 ? atomicAdd(copy.drawn, 1) : 0; };
  int drawn = draw();
#pragma unroll 1
  for (;;) {
    const int group = __shfl_sync(0xffffffffu, drawn, 0), tile = group / groups;
    if (tile >= total) return;
    drawn = draw();  // answered by the time that these rows are copied
    const ExpertTiles of = tiles_around(tiles, tile_rows, tile);
    const int begin = (tile - of.first_tile) * of.size, at = begin + group % groups * kCopiedRows,
              count = min(min(begin + of.size, of.rows) - at, kCopiedRows);
    if (count <= 0) continue;
    const int row = of.begin + at, token = lane < count ? copy.row_token[row + lane] : 0;
    uint4* to = copy.rows + std::int64_t{row} * copy.width + lane;
#pragma unroll 1
    for (int i = 0; i < count; ++i, to += copy.width)
      copy_row(copy.tokens + std::int64_t{__shfl_sync(0xffffffffu, token, i)} * copy.width + lane, to,
               copy.width - lane);
    fence_global_for_async();
    __syncwarp();
    if (lane == 0) add_released(copy.arrived + tile, count);
  }
}

/// By the thread that then loads them.
__device__ __forceinline__ void await_rows(const int* arrived, int count) {
  while (load_acquired(arrived) < count) __nanosleep(32);
  fence_global_for_async();
}

}  // namespace moeref::cuda::sm90
