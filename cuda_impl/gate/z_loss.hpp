// The router z-loss (SPEC.md 10, z_loss_coeff): n = max(real tokens, 1), sum_t m_t logsumexp(z_t)^2 / n.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace moeref::cuda {

struct ZLossOutput {
  double* sum;        // of all squares, or null
  float* loss;        // or null
  double* inverse_n;  // or null: what its gradient needs beside the logits
};

/// From the blocks' sums of squares and numbers of real tokens [blocks], added in a fixed order.
void finish_z_loss(const double* block_squares, const int* block_tokens, int blocks, const ZLossOutput& out,
                   cudaStream_t stream);
/// From the sums over ranks, one number each.
void z_loss_from_sums(const double* squares, const std::int64_t* real_tokens, const ZLossOutput& out,
                      cudaStream_t stream);

}  // namespace moeref::cuda
