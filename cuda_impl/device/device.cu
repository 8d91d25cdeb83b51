#include "moeref/cuda/device.hpp"

#include "moeref/cuda/error.hpp"

#ifndef MOEREF_CUDA_ARCHITECTURES
#define MOEREF_CUDA_ARCHITECTURES "the emulated device"
#endif

namespace moeref::cuda {
namespace {

/// Stands for all kernels: each is compiled for the same architectures.
__global__ void any_kernel() {}

/// CUDA's own words for it are that no image is available, or that a function is invalid.
bool is_missing_kernel(cudaError_t status) {
  return status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction;
}

std::string built_for() {
  return "this library has no kernels for the device: it was built for " MOEREF_CUDA_ARCHITECTURES
         "; build it where the device is, or with -DCMAKE_CUDA_ARCHITECTURES=";
}

}  // namespace

std::optional<std::string> device_missing() {
  int count = 0, device = 0, major = 0, minor = 0, pools = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0)
    return "no CUDA device here" +
           (status == cudaSuccess ? std::string() : std::string(": ") + cudaGetErrorString(status));
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device) != cudaSuccess)
    return "the CUDA device does not answer";
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  if (major < 8) return "the CUDA device has compute capability " + capability + ": want 8.0 or newer";
  cudaFuncAttributes attributes;
  if (const cudaError_t status = cudaFuncGetAttributes(&attributes, any_kernel); status != cudaSuccess) {
    cudaGetLastError();
    if (!is_missing_kernel(status))
      return std::string("the CUDA device does not answer: ") + cudaGetErrorString(status);
    return "the CUDA device has compute capability " + capability + ", and " + built_for() +
           std::to_string(major) + std::to_string(minor);
  }
  if (!pools) return "the CUDA device has no memory pools";
  return std::nullopt;
}

void throw_cuda_error(cudaError_t status, const char* call) {
  std::string message = std::string(call) + ": " + cudaGetErrorString(status);
  if (is_missing_kernel(status)) message += "; " + built_for() + "native";
  throw CudaError(message);
}

}  // namespace moeref::cuda
