// What the CUDA implementation throws. Nothing here aborts.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "moeref/cuda/dtype.hpp"

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

inline void check_matrix_type(DataType type, const char* field) {
  if (!is_matrix_type(type))
    throw ArgumentError(std::string(field) + " is no type of matrices: want bfloat16, float16 or float32");
}

/// The first line of every public function that queues work. CUDA keeps an error until somebody asks for it:
/// what the application left there, a cudaMalloc that failed and that it did without, is not this call's. An
/// error that has ended the context stays.
inline void forget_earlier_errors() { cudaGetLastError(); }

/// Says, too, which architectures the library was built for where the device is of another.
[[noreturn]] void throw_cuda_error(cudaError_t status, const char* call);

inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw_cuda_error(status, call);
}

}  // namespace moeref::cuda
