// How many multiprocessors the current device has.
#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace moeref::cuda
