// The k largest of up to 1024 numbers, by one warp: largest first, the lowest index first among equals, NaN
// above everything. The order is total, so no index comes twice.
#pragma once

#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {

/// Numbers as unsigned integers in the same order: NaN on top, -0 equal to +0, and 0 for what is not there,
/// below -infinity.
__device__ inline unsigned order_key(float v) {
  if (v != v) return 0xffffffffu;
  const unsigned bits = v == 0.0f ? 0u : __float_as_uint(v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline std::uint64_t order_key(double v) {
  if (v != v) return ~std::uint64_t{0};
  const auto bits = v == 0.0 ? std::uint64_t{0} : static_cast<std::uint64_t>(__double_as_longlong(v));
  return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
}
template <class Acc>
using OrderKey = decltype(order_key(Acc{}));

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
