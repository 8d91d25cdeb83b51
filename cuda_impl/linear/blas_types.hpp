// What cuBLAS calls the types of matrices, and its failures as exceptions.
#pragma once

#include <cublas_v2.h>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

/// Throws CudaError naming the call and cuBLAS's own words.
void check(cublasStatus_t status, const char* call);

/// Of a type that matrices may have; products of float32 are multiply-adds, never TF32.
struct BlasTypes {
  cudaDataType_t matrix;
  cublasComputeType_t compute;
};
constexpr BlasTypes blas_types(DataType type) {
  if (type == DataType::float32) return {CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC};
  return {type == DataType::float16 ? CUDA_R_16F : CUDA_R_16BF, CUBLAS_COMPUTE_32F};
}

}  // namespace moeref::cuda
