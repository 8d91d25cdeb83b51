// Column sums per expert. A block takes 64 columns of one expert: 8 threads across, 32 down, each every 32nd
// row, then the 32 partial sums are added in order. Floor: the rows read once.
#include "gradients/gradients.hpp"
#include "grouped_gemm/ptx_sm90.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

template <bool Gathered>
__global__ void column_sums(const int* __restrict__ offsets, const int* __restrict__ row_token,
                            const float* __restrict__ row_weight, const __nv_bfloat16* __restrict__ rows,
                            int width, __nv_bfloat16* __restrict__ out) {
  __shared__ float partial[32][65];
  const int e = blockIdx.y, across = threadIdx.x % 8, down = threadIdx.x / 8,
            column = blockIdx.x * 64 + across * 8;
  float sum[8] = {};
  if (column < width)
    for (int r = offsets[e] + down; r < offsets[e + 1]; r += 32) {
      const std::int64_t source = Gathered ? row_token[r] : r;
      const float p = Gathered ? row_weight[r] : 1.0f;
      float v[8];
      sm90::unpack_bf16(*reinterpret_cast<const uint4*>(rows + source * width + column), v);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] += p * v[i];
    }
#pragma unroll
  for (int i = 0; i < 8; ++i) partial[down][across * 8 + i] = sum[i];
  __syncthreads();
  if (threadIdx.x < 64 && blockIdx.x * 64 + threadIdx.x < width) {
    float total = 0;
    for (int d = 0; d < 32; ++d) total += partial[d][threadIdx.x];
    out[std::int64_t(e) * width + blockIdx.x * 64 + threadIdx.x] = __float2bfloat16(total);
  }
}

}  // namespace

void bias_gradient(const Permutation& p, int experts, const __nv_bfloat16* rows, int width, bool gathered,
                   __nv_bfloat16* out, cudaStream_t stream) {
  const dim3 grid((width + 63) / 64, experts);
  if (gathered)
    column_sums<true><<<grid, 256, 0, stream>>>(p.offsets, p.row_token, p.row_weight, rows, width, out);
  else
    column_sums<false><<<grid, 256, 0, stream>>>(p.offsets, p.row_token, p.row_weight, rows, width, out);
  check(cudaGetLastError(), "bias_gradient");
}

}  // namespace moeref::cuda
