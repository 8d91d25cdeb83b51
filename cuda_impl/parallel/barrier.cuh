// The ranks of a group meet on the device: each stores the number of the meeting into its flag at every peer
// and waits until every peer's flag here has it. Stores of kernels before are visible to kernels of the peers
// after, because the store releases and the load acquires at system scope.
#pragma once

#include <cuda/atomic>

#include "cuda_impl/memory/ptx_sm80.cuh"
#include "cuda_impl/parallel/barrier.hpp"

namespace moeref::cuda {

using SystemFlag = ::cuda::atomic_ref<unsigned long long, ::cuda::thread_scope_system>;

/// By all threads of one block of at least `size` threads. A peer that does not come within about `limit_ns`
/// breaks the group: the failure is written for the host, the peers are told, and no later meeting waits.
__device__ inline void meet(const Meeting& m) {
  const int p = static_cast<int>(threadIdx.x);
  const unsigned long long number = *m.number + 1;
  const bool whole = *m.broken == 0;
  __syncthreads();  // everything that this block wrote before, and both words above are read
  if (whole && p < m.size && m.theirs[p] != nullptr) {
    SystemFlag(m.theirs[p][m.rank]).store(number, ::cuda::memory_order_release);
    SystemFlag mine(m.mine[p]);
    unsigned long long seen = mine.load(::cuda::memory_order_acquire);
    const unsigned long long begin = nanoseconds();
    for (int looks = 0; seen < number; ++looks) {
      if (looks > 4096) {  // not a matter of microseconds
        if (nanoseconds() - begin > m.limit_ns) break;
        __nanosleep(1000);
        looks = 4096;
      }
      seen = mine.load(::cuda::memory_order_acquire);
    }
    if (seen < number || seen == kAborted) {
      *m.broken = 1;
      *m.failure = seen == kAborted ? -(p + 1) : p + 1;
      for (int q = 0; q < m.size; ++q)
        if (m.theirs[q] != nullptr)
          SystemFlag(m.theirs[q][m.rank]).store(kAborted, ::cuda::memory_order_release);
    }
  }
  if (p == 0) *m.number = number;
  __syncthreads();  // the block's next meeting reads both words
}

}  // namespace moeref::cuda
