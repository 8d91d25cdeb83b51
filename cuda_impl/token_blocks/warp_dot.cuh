// The product of two rows in one warp.
#pragma once

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {

/// a . b, rows of `width` elements that are read N at a time (in_eights()). The order of the sums depends on
/// `width` and N alone; all lanes get the same bits. `each(i, v)` is called for the N elements v of b at i
/// when they have been read.
template <int N, class T, class Each>
__device__ __forceinline__ float warp_dot(const T* a, const T* b, int width, Each each) {
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x % 32) * N; c < width; c += 32 * N) {
    float u[N], v[N];
    load<N>(a + c, u);
    load<N>(b + c, v);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += u[i] * v[i];
    each(c, v);
  }
  return warp_sum(sum);
}
template <int N, class T>
__device__ __forceinline__ float warp_dot(const T* a, const T* b, int width) {
  return warp_dot<N>(a, b, width, [](int, const float(&)[N]) {});
}

}  // namespace moeref::cuda
