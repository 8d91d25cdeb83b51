#include <cuda_runtime_api.h>

#include <cstdio>
#include <string>

#include "moeref/cuda/error.hpp"
#include "tools/bench/cuda/cuda_bench.hpp"
#include "tools/bench/cuda/device_watch.hpp"

namespace moeref::cuda::bench {
namespace {

/// 13020 is "13.2".
std::string cuda_version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

moeref::bench::Facts device_facts() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess)
    throw CudaError(std::string("no CUDA device here (") + cudaGetErrorString(status) + ")");
  if (count == 0) throw CudaError("no CUDA device here");
  int device = 0, driver = 0, runtime = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  if (properties.major < 8)
    throw CudaError(std::string(properties.name) + " has compute capability " +
                    std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                    ": want 8.0 or newer");
  char memory[32];
  std::snprintf(memory, sizeof memory, "%.1f GiB",
                static_cast<double>(properties.totalGlobalMem) / (1u << 30));
  return {{"device", properties.name},
          {"compute_capability", std::to_string(properties.major) + "." + std::to_string(properties.minor)},
          {"multiprocessors", std::to_string(properties.multiProcessorCount)},
          {"memory", memory},
          {"driver", driver_version()},
          {"driver_cuda", cuda_version(driver)},
          {"toolkit", cuda_version(runtime)}};
}

}  // namespace moeref::cuda::bench
