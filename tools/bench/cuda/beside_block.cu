#include "tools/bench/cuda/beside_block.hpp"

#include "moeref/cuda/error.hpp"

namespace moeref::cuda::bench {
namespace {

__global__ void wait_for_host(volatile int* flags) {
  if (threadIdx.x == 0) flags[0] = 1;
  while (flags[1] == 0) __nanosleep(1000);
}

}  // namespace

BesideBlock::BesideBlock() {
  void *host = nullptr, *device = nullptr;
  check(cudaHostAlloc(&host, 2 * sizeof(int), cudaHostAllocMapped), "cudaHostAlloc");
  flags_ = static_cast<volatile int*>(host);
  flags_[0] = 0;
  flags_[1] = 0;
  check(cudaHostGetDevicePointer(&device, host, 0), "cudaHostGetDevicePointer");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  wait_for_host<<<1, 32, 0, stream_>>>(static_cast<volatile int*>(device));
  check(cudaGetLastError(), "wait_for_host");
  while (flags_[0] == 0) check(cudaPeekAtLastError(), "wait_for_host");
}

BesideBlock::~BesideBlock() {
  flags_[1] = 1;
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
  cudaFreeHost(const_cast<int*>(flags_));
}

}  // namespace moeref::cuda::bench
