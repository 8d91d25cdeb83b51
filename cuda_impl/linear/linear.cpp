// cuBLAS is column-major: a row-major [r, c] matrix is its [c, r] one, so each product is computed
// transposed.
#include "cuda_impl/linear/linear.hpp"

#include <cublas_v2.h>

#include "cuda_impl/linear/blas_types.hpp"

namespace moeref::cuda {
namespace {

/// C [m, n] = op(A) op(B) (+ C), column-major, K = k.
void gemm(DataType dtype, cublasOperation_t op_a, cublasOperation_t op_b, std::int64_t m, std::int64_t n,
          std::int64_t k, const void* a, std::int64_t lda, const void* b, std::int64_t ldb, void* c, bool add,
          Blas& blas) {
  if (m == 0 || n == 0) return;
  const auto [type, compute] = blas_types(dtype);
  const float one = 1, beta = add ? 1.0f : 0.0f;
  check(cublasGemmEx_64(blas.handle(), op_a, op_b, m, n, k, &one, a, type, lda, b, type, ldb, &beta, c, type,
                        m, compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx_64");
}

}  // namespace

void linear(const LinearShape& s, const void* x, const void* weight, void* y, bool add, Blas& blas) {
  gemm(s.dtype, CUBLAS_OP_T, CUBLAS_OP_N, s.out, s.rows, s.in, weight, s.in, x, s.in, y, add, blas);
}

void linear_with_bias(const LinearShape& s, const void* x, const void* weight, const void* bias, void* y,
                      Blas& blas, cudaStream_t stream) {
  if (bias != nullptr) add_bias(s.dtype, s.rows, s.out, bias, nullptr, y, false, stream);
  linear(s, x, weight, y, bias != nullptr, blas);
}

void linear_input_gradient(const LinearShape& s, const void* dy, const void* weight, void* dx, bool add,
                           Blas& blas) {
  gemm(s.dtype, CUBLAS_OP_N, CUBLAS_OP_N, s.in, s.rows, s.out, weight, s.in, dy, s.out, dx, add, blas);
}

void linear_weight_gradient(const LinearShape& s, const void* dy, const void* x, void* dw, Blas& blas,
                            cudaStream_t stream) {
  if (s.rows == 0) {
    check(cudaMemsetAsync(dw, 0, static_cast<std::size_t>(s.in) * s.out * bytes_of(s.dtype), stream),
          "cudaMemsetAsync");
    return;
  }
  gemm(s.dtype, CUBLAS_OP_N, CUBLAS_OP_T, s.in, s.out, s.rows, x, s.in, dy, s.out, dw, false, blas);
}

}  // namespace moeref::cuda
