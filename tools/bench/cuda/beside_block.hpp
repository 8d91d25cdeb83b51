// A kernel that holds one multiprocessor, as a collective's or a waiting meeting's does in training.
#pragma once

#include <cuda_runtime_api.h>

namespace moeref::cuda::bench {

/// One block of 32 threads that waits, in a stream of its own, from the constructor's return to the
/// destructor. What is queued meanwhile must be loaded already, and cudaDeviceSynchronize would never return.
class BesideBlock {
 public:
  BesideBlock();
  BesideBlock(const BesideBlock&) = delete;
  ~BesideBlock();

 private:
  cudaStream_t stream_ = nullptr;
  volatile int* flags_ = nullptr;  // that the block has begun, and that it shall end; of the host
};

}  // namespace moeref::cuda::bench
