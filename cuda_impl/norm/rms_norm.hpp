// Rows over their root mean square, times a factor per column, and the gradients through it: the gate's
// tokens, which may be multiplied by noise too (SPEC.md 10, router_input_norm and router_jitter), and rows of
// the latent size (latent_norm).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// round(x n), or round(round(x n) r) w factor, r the inverse root of the row's mean square: in fp32, the
/// inner roundings to x_type.
struct NormedRows {
  std::int64_t rows;
  int width;
  const void *x, *noise, *weight;      // [rows, width], the same or null, [width] or null without a norm
  DataType x_type, weight_type, type;  // of x and noise, of weight, of the result
  bool norm;
  double eps = 0.0, factor = 1.0;
};

/// h [rows, width] in `type`.
void make_normed_rows(const NormedRows& rows, void* h, cudaStream_t stream);

/// From dh [rows, width] in `type` to the gradient of x, in fp32, stored in x_type or added to what dx holds
/// and rounded once; dx may be null. `inverse_roots` [rows] are written under a norm, for
/// norm_weight_gradient.
void normed_rows_gradient(const NormedRows& rows, const void* dh, void* dx, bool add, float* inverse_roots,
                          cudaStream_t stream);

/// Ranges of rows whose parts of the weight's gradient are added one after another.
int norm_weight_parts(std::int64_t rows);
/// The gradient of the weight [width], in weight_type, by way of `parts` [norm_weight_parts(), width].
void norm_weight_gradient(const NormedRows& rows, const void* dh, const float* inverse_roots, float* parts,
                          void* d_weight, cudaStream_t stream);

}  // namespace moeref::cuda
