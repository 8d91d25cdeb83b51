#include "moeref/cuda/blas.hpp"

#include <cublas_v2.h>

#include "cuda_impl/linear/blas_types.hpp"

namespace moeref::cuda {

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw CudaError(std::string(call) + ": " + cublasGetStatusString(status));
}

Blas::Blas() {
  check(cublasCreate(&handle_), "cublasCreate");
  // By default split sums of 16-bit products may pass through their type.
  const auto mode =
      static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
  check(cublasSetMathMode(handle_, mode), "cublasSetMathMode");
}

Blas::~Blas() { cublasDestroy(handle_); }

void Blas::bind(cudaStream_t stream, void* workspace) {
  check(cublasSetStream(handle_, stream), "cublasSetStream");  // resets the workspace
  check(cublasSetWorkspace(handle_, workspace, workspace_bytes), "cublasSetWorkspace");
}

}  // namespace moeref::cuda
