#include "cublas_v2.h"

#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_impl/emulation/runtime.hpp"

struct cublasContext {
  cudaStream_t stream = nullptr;
};

namespace {

float element(const void* matrix, cudaDataType_t type, std::int64_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(matrix)[i];
  if (type == CUDA_R_16F) return __half2float(static_cast<const __half*>(matrix)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(matrix)[i]);
}

/// op(A) [rows, columns] row-major.
std::vector<float> operand(const void* matrix, cudaDataType_t type, cublasOperation_t op, std::int64_t rows,
                           std::int64_t columns, std::int64_t ld) {
  std::vector<float> out(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      out[static_cast<std::size_t>(r * columns + c)] =
          element(matrix, type, op == CUBLAS_OP_N ? c * ld + r : r * ld + c);
  return out;
}

}  // namespace

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t) {
  return handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, std::size_t) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  return workspace ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}
const char* cublasGetStatusString(cublasStatus_t status) {
  return status == CUBLAS_STATUS_SUCCESS ? "success" : "an invalid value was given to cuBLAS";
}

cublasStatus_t cublasGemmEx_64(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                               std::int64_t m, std::int64_t n, std::int64_t k, const void* alpha,
                               const void* a, cudaDataType_t a_type, std::int64_t lda, const void* b,
                               cudaDataType_t b_type, std::int64_t ldb, const void* beta, void* c,
                               cudaDataType_t c_type, std::int64_t ldc, cublasComputeType_t,
                               cublasGemmAlgo_t) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (m < 0 || n < 0 || k < 0 || lda < (op_a == CUBLAS_OP_N ? m : k) || ldb < (op_b == CUBLAS_OP_N ? k : n) ||
      ldc < m || !a || !b || !c)
    return CUBLAS_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  emulated::enqueue(handle->stream, [=] {
    const std::vector<float> left = operand(a, a_type, op_a, m, k, lda),
                             right = operand(b, b_type, op_b == CUBLAS_OP_N ? CUBLAS_OP_T : CUBLAS_OP_N, n, k,
                                             ldb);
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = 0; i < m; ++i) {
        float sum = 0;
        for (std::int64_t q = 0; q < k; ++q)
          sum += left[static_cast<std::size_t>(i * k + q)] * right[static_cast<std::size_t>(j * k + q)];
        const std::int64_t at = j * ldc + i;
        const float value = scale * sum + (keep != 0 ? keep * element(c, c_type, at) : 0.0f);
        if (c_type == CUDA_R_32F)
          static_cast<float*>(c)[at] = value;
        else if (c_type == CUDA_R_16F)
          static_cast<__half*>(c)[at] = __float2half_rn(value);
        else
          static_cast<__nv_bfloat16*>(c)[at] = __float2bfloat16_rn(value);
      }
    return true;
  });
  return CUBLAS_STATUS_SUCCESS;
}
