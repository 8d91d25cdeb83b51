// The k largest of up to 1024 numbers, by one warp: largest first, the lowest index first among equals, NaN
// above everything. The order is total, so no index comes twice.
#pragma once

#include "cuda_impl/token_blocks/order_key.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {

/// Lane l holds keys of the indices l + 32 j; `keys` is used up. At most as many as there are keys above 0
/// may be wanted. The ids go to `out` [count], which the lanes share.
template <class Key, int kItems>
__device__ void warp_top_k(Key (&keys)[kItems], int count, int* out) {
  const int lane = threadIdx.x % 32;
  Key best = 0;
  int at = 0;
  const auto find_best = [&] {
    best = 0, at = 0;
#pragma unroll
    for (int j = 0; j < kItems; ++j)
      if (keys[j] > best) best = keys[j], at = j;
  };
  find_best();
  for (int s = 0; s < count; ++s) {
    const Key top = warp_max(best);
    const unsigned mine = best == top ? static_cast<unsigned>(at * 32 + lane) : 0xffffffffu;
    const unsigned id = __reduce_min_sync(kAllLanes, mine);
    if (mine == id) {
      out[s] = static_cast<int>(id);
#pragma unroll
      for (int j = 0; j < kItems; ++j)
        if (j == at) keys[j] = 0;
      find_best();
    }
  }
  __syncwarp();
}

}  // namespace moeref::cuda
