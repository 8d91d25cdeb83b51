// Reductions over the 32 lanes of a warp, all lanes taking part; every lane gets the same bits.
#pragma once

#include <cstdint>

namespace moeref::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

/// Butterfly: partners add the same two numbers, so all lanes agree at every step.
template <class T>
__device__ T warp_sum(T v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(kAllLanes, v, d);
  return v;
}

/// NaN loses against any number.
template <class T>
__device__ T warp_largest(T v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v = fmax(v, __shfl_xor_sync(kAllLanes, v, d));
  return v;
}

__device__ inline unsigned warp_max(unsigned v) { return __reduce_max_sync(kAllLanes, v); }
__device__ inline std::uint64_t warp_max(std::uint64_t v) {
  const unsigned high = static_cast<unsigned>(v >> 32), top = warp_max(high);
  const unsigned low = warp_max(high == top ? static_cast<unsigned>(v) : 0u);
  return std::uint64_t{top} << 32 | low;
}

}  // namespace moeref::cuda
