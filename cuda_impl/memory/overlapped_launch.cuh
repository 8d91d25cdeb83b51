// Launches that begin while the kernel before them on the stream still runs (programmatic dependent launch,
// compute capability 9.0 and newer): their blocks take the multiprocessors that it leaves, and wait there for
// its results. Measured figures: tools/bench/results/2026-11-29-h200-turns.md. The emulated device has its
// own version of this header.
#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

/// Kernels before this one on the stream have ended, and their writes are seen. Every thread of a kernel that
/// launch_overlapped() starts calls it before it reads or writes what others use, and reads through no
/// `const __restrict__`, whose loads might come earlier.
__device__ __forceinline__ void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel's blocks may come as soon as all blocks of this one have called it; else when they have
/// ended. For kernels that are followed by one whose blocks fill the device in any case: few blocks that come
/// early crowd where there is room, and run slower than one to a multiprocessor would.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes;
  cudaStream_t stream;
  int cluster = 1;  // blocks along x
};

/// Whether the device runs code of the kernel in which await_earlier_kernels() does something.
template <auto Kernel>
bool starts_early() {
  static const int compiled_for = [] {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, Kernel), "cudaFuncGetAttributes");
    return attributes.ptxVersion;
  }();
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major >= 9 && compiled_for >= 90;
}

/// Kernel<<<...>>>(arguments...). Throws CudaError with `name`.
template <auto Kernel, class... Arguments>
void launch_overlapped(const char* name, const LaunchShape& shape, const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  if (starts_early<Kernel>()) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  check(cudaLaunchKernelEx(&config, Kernel, arguments...), name);
}

}  // namespace moeref::cuda
