// What the CUDA implementation throws. Nothing here aborts.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace moeref::cuda {

/// A call of the CUDA runtime or driver that failed. The message names the call and CUDA's own words.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Arguments that this implementation cannot serve: the message names the field, its value and what would be
/// right.
class ArgumentError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw CudaError(std::string(call) + ": " + cudaGetErrorString(status));
}

}  // namespace moeref::cuda
