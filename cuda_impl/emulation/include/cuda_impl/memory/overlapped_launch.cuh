// The emulated twin of cuda_impl/memory/overlapped_launch.cuh: kernels run one after another.
#pragma once

#include "emulated/block.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

inline void wait_for_earlier_kernels() {}
inline void let_next_kernel_start() {}

struct LaunchShape {
  dim3 grid, block;
  std::size_t shared_bytes;
  cudaStream_t stream;
};

template <auto Kernel, class... Arguments>
void launch_overlapped(const char* name, const LaunchShape& shape, const Arguments&... arguments) {
  ::emulated::Launch(name, shape.grid, shape.block, shape.shared_bytes, shape.stream).run([=] {
    Kernel(arguments...);
  });
  check(cudaGetLastError(), name);
}

}  // namespace moeref::cuda
