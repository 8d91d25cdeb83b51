#include "tools/bench/cuda/dense_products.hpp"

#include <cublas_v2.h>

#include "cuda_impl/linear/blas_types.hpp"

namespace moeref::cuda::bench {

DenseProducts::DenseProducts(std::span<const moeref::bench::Product> products, Buffers& memory)
    : type_(memory.type()) {
  for (const moeref::bench::Product& p : products)
    products_.push_back({p, memory.inputs({p.rows, p.inner}, 1.0),
                         memory.normal({p.inner, p.columns}, 0.02, type_),
                         memory.result({p.rows, p.columns})});
  check(cublasCreate(&handle_), "cublasCreate");
}

DenseProducts::~DenseProducts() {
  if (handle_) cublasDestroy(handle_);
}

void DenseProducts::run(int call) const {
  const auto [type, compute] = blas_types(type_);
  const float one = 1.0f, zero = 0.0f;
  // cuBLAS is column-major: C' = B' A'.
  for (const auto& [p, left, right, result] : products_)
    check(cublasGemmEx_64(handle_, CUBLAS_OP_N, CUBLAS_OP_N, p.columns, p.rows, p.inner, &one, right, type,
                          p.columns, left(call), type, p.inner, &zero, result, type, p.columns, compute,
                          CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx_64");
}

}  // namespace moeref::cuda::bench
