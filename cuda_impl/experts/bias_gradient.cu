// One block per 64 columns of an expert: 32 threads down its rows, 8 columns across each (or, where width or
// address does not allow eight, one column at a time), then one sum over the 32 in order. The rows read once.
#include "cuda_impl/experts/gradients.hpp"
#include "cuda_impl/memory/element.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

template <class T, bool Gathered, bool Eights>
__global__ void column_sums(const int* __restrict__ offsets, int step, const int* __restrict__ row_token,
                            const float* __restrict__ row_weight, const T* __restrict__ rows, int width,
                            T* __restrict__ out) {
  __shared__ float partial[32][65];
  const int e = blockIdx.y, across = threadIdx.x % 8, down = threadIdx.x / 8,
            column = blockIdx.x * 64 + across * 8;
  float sum[8] = {};
  if (column < width)
    for (int r = offsets[e * step] + down; r < offsets[(e + 1) * step]; r += 32) {
      const std::int64_t source = Gathered ? row_token[r] : r;
      const float p = Gathered ? row_weight[r] : 1.0f;
      const T* at = rows + source * width + column;
      float v[8] = {};
      if constexpr (Eights)
        load<8>(at, v);
      else
        for (int i = 0; i < 8; ++i)
          if (column + i < width) v[i] = to_float(at[i]);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += p * v[i];
    }
#pragma unroll
  for (int i = 0; i < 8; ++i) partial[down][across * 8 + i] = sum[i];
  __syncthreads();
  if (threadIdx.x < 64 && blockIdx.x * 64 + threadIdx.x < width) {
    float total = 0;
    for (int d = 0; d < 32; ++d) total += partial[d][threadIdx.x];
    out[std::int64_t(e) * width + blockIdx.x * 64 + threadIdx.x] = from_float<T>(total);
  }
}

}  // namespace

void bias_gradient(DataType dtype, const Permutation& p, int experts, const void* rows, int width,
                   bool gathered, void* out, cudaStream_t stream) {
  const dim3 grid((width + 63) / 64, experts);
  with_type(dtype, [&]<class T>() {
    const bool eights = in_eights(width, rows);
    const auto kernel = gathered ? (eights ? column_sums<T, true, true> : column_sums<T, true, false>)
                                 : (eights ? column_sums<T, false, true> : column_sums<T, false, false>);
    kernel<<<grid, 256, 0, stream>>>(p.offsets, p.chunks, p.row_token, p.row_weight,
                                     static_cast<const T*>(rows), width, static_cast<T*>(out));
  });
  check(cudaGetLastError(), "bias_gradient");
}

}  // namespace moeref::cuda
