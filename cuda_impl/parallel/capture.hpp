#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace moeref::cuda
