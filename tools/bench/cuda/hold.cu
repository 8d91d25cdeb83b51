#include "cuda_impl/memory/ptx_sm80.cuh"
#include "tools/bench/cuda/device_timing.hpp"

namespace moeref::cuda::bench {
namespace {

__global__ void wait_for(unsigned long long ns) {
  const unsigned long long begin = nanoseconds();
  while (nanoseconds() - begin < ns) __nanosleep(1000);
}

}  // namespace

void hold(cudaStream_t stream, unsigned microseconds) {
  wait_for<<<1, 1, 0, stream>>>(1000ull * microseconds);
  check(cudaGetLastError(), "hold");
}

}  // namespace moeref::cuda::bench
