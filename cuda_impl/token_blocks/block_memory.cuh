// A block's shared memory in the two passes over the logits, and its sums over the block's warps.
#pragma once

#include "cuda_impl/token_blocks/token_blocks.hpp"

namespace moeref::cuda {

template <class Acc, int kItems>
struct BlockMemory {
  static constexpr int kWidth = 32 * kItems;
  Acc *row, *second_row, *slots;  // this warp's: [kWidth], [kWidth], [kMostSlots]
  int* ids;                       // this warp's [kMostSlots]
  int* histogram;                 // the block's [E]
  Acc* rows;                      // all warps' rows, 2 * kWidth apart

  __device__ BlockMemory(unsigned char* shared, int warps, int warp) {
    rows = reinterpret_cast<Acc*>(shared);
    row = rows + warp * 2 * kWidth;
    second_row = row + kWidth;
    Acc* all_slots = rows + warps * 2 * kWidth;
    slots = all_slots + warp * kMostSlots;
    int* all_ids = reinterpret_cast<int*>(all_slots + warps * kMostSlots);
    ids = all_ids + warp * kMostSlots;
    histogram = all_ids + warps * kMostSlots;
  }

  /// out[e] = sum over the block's warps of their sums, first warp first. All threads call it.
  __device__ void store_sums(const Acc (&sums)[kItems], int experts, int warps, Acc* out) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kItems; ++j) row[lane + 32 * j] = sums[j];
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += blockDim.x) {
      Acc sum = 0;
      for (int w = 0; w < warps; ++w) sum += rows[w * 2 * kWidth + e];
      out[e] = sum;
    }
  }
};

}  // namespace moeref::cuda
