// One block per expert looks at all slots: thread i adds its own among slots i, i + 256, ..., and a tree adds
// the threads. E times T k ids from the L2: 67 MB at T = 16384, E = 128, k = 8.
#include "cuda_impl/gate/expert_scale.hpp"

#include "cuda_impl/memory/typed_element.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kSlotThreads = 256;

__global__ void expert_scale_kernel(std::int64_t slots, const int* ids, const float* terms, DataType type,
                                    void* d_scale) {
  __shared__ float sums[kSlotThreads];
  const int at = threadIdx.x, expert = blockIdx.x;
  float sum = 0;
  for (std::int64_t i = at; i < slots; i += kSlotThreads)
    if (ids[i] == expert) sum += terms[i];
  sums[at] = sum;
  for (int half = kSlotThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (at < half) sums[at] += sums[at + half];
  }
  if (at == 0) store_element(d_scale, type, expert, sums[0]);
}

}  // namespace

void expert_scale_gradient(const GateConfig& c, const int* ids, const float* terms, void* d_scale,
                           cudaStream_t stream) {
  expert_scale_kernel<<<static_cast<unsigned>(c.experts), kSlotThreads, 0, stream>>>(
      c.tokens * c.slots, ids, terms, c.parameter_type, d_scale);
  check(cudaGetLastError(), "expert_scale_gradient");
}

}  // namespace moeref::cuda
