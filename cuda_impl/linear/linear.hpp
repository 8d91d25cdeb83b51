// torch-style Linear layers by cuBLAS, forward and backward, and the sums beside them. Row-major matrices of
// type `dtype`; W [out, in]. With `add` the result is added to what is there, in fp32, and rounded once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/blas.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct LinearShape {
  std::int64_t rows;
  int in, out;
  DataType dtype;
};

/// y [rows, out] = x [rows, in] W^T (+ y).
void linear(const LinearShape& shape, const void* x, const void* weight, void* y, bool add, Blas& blas);
/// The same with a bias [out], or null for none: y = x W^T + bias, one rounding. Writes y twice when there is
/// a bias.
void linear_with_bias(const LinearShape& shape, const void* x, const void* weight, const void* bias, void* y,
                      Blas& blas, cudaStream_t stream);
/// dx [rows, in] = dy [rows, out] W (+ dx).
void linear_input_gradient(const LinearShape& shape, const void* dy, const void* weight, void* dx, bool add,
                           Blas& blas);
/// dW [out, in] = dy^T x; zeros where there are no rows.
void linear_weight_gradient(const LinearShape& shape, const void* dy, const void* x, void* dw, Blas& blas,
                            cudaStream_t stream);

/// y[r] = bias (* row_scale[r]) (+ y[r]). row_scale [rows] or null.
void add_bias(DataType dtype, std::int64_t rows, int width, const void* bias, const float* row_scale, void* y,
              bool add, cudaStream_t stream);

/// out[r] = matrix[r] . vector (+ out[r]), in fp32. matrix [rows, width], vector [width].
void row_dot(DataType dtype, std::int64_t rows, int width, const void* matrix, const void* vector, float* out,
             bool add, cudaStream_t stream);

/// out [width] = sum over rows r of matrix[r] (* row_scale[r]), in an order that depends on the shape alone.
std::size_t column_sum_workspace_bytes(int width);
void column_sum(DataType dtype, std::int64_t rows, int width, const void* matrix, const float* row_scale,
                void* out, void* workspace, cudaStream_t stream);

}  // namespace moeref::cuda
