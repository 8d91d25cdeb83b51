// One warp adds what the blocks of route_tokens found: lane l blocks l, l + 32, ..., then a butterfly.
#include "cuda_impl/gate/z_loss.hpp"

#include "cuda_impl/token_blocks/warp_reduce.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

__device__ void store_z_loss(double squares, long long tokens, const ZLossOutput& out) {
  const double n = tokens > 0 ? static_cast<double>(tokens) : 1.0;
  if (out.sum) *out.sum = squares;
  if (out.loss) *out.loss = static_cast<float>(squares / n);
  if (out.inverse_n) *out.inverse_n = 1.0 / n;
}

__global__ void finish_z_kernel(const double* block_squares, const int* block_tokens, int blocks,
                                ZLossOutput out) {
  double squares = 0;
  long long tokens = 0;
  for (int b = threadIdx.x; b < blocks; b += 32) squares += block_squares[b], tokens += block_tokens[b];
  squares = warp_sum(squares), tokens = warp_sum(tokens);
  if (threadIdx.x == 0) store_z_loss(squares, tokens, out);
}

__global__ void z_from_sums_kernel(const double* squares, const std::int64_t* real_tokens, ZLossOutput out) {
  store_z_loss(*squares, *real_tokens, out);
}

}  // namespace

void finish_z_loss(const double* block_squares, const int* block_tokens, int blocks, const ZLossOutput& out,
                   cudaStream_t stream) {
  finish_z_kernel<<<1, 32, 0, stream>>>(block_squares, block_tokens, blocks, out);
  check(cudaGetLastError(), "finish_z_loss");
}

void z_loss_from_sums(const double* squares, const std::int64_t* real_tokens, const ZLossOutput& out,
                      cudaStream_t stream) {
  z_from_sums_kernel<<<1, 1, 0, stream>>>(squares, real_tokens, out);
  check(cudaGetLastError(), "z_loss_from_sums");
}

}  // namespace moeref::cuda
