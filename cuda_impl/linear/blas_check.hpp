// Failures of cuBLAS as exceptions.
#pragma once

#include <cublas_v2.h>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

/// Throws CudaError naming the call and cuBLAS's own words.
void check(cublasStatus_t status, const char* call);

}  // namespace moeref::cuda
