// One warp per slot; the order of the sums depends on the shape alone.
#include "cuda_impl/experts/gradients.hpp"
#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"

namespace moeref::cuda {
namespace {

template <class T>
__global__ void sum_parts(const int* slot_row, std::int64_t total, int slots, const float* dot_parts,
                          int parts, const int* ids, const T* dy, const T* down_bias, int dim, float* out) {
  wait_for_earlier_kernels();
  const std::int64_t slot = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (slot >= total) return;
  const int row = slot_row[slot];
  float sum = 0;
  if (row >= 0) {
    for (int i = lane; i < parts; i += 32) sum += dot_parts[std::int64_t(row) * parts + i];
    if (down_bias != nullptr) {
      const T* b = down_bias + std::int64_t(ids[slot]) * dim;
      const T* y = dy + slot / slots * dim;
      for (int i = lane; i < dim; i += 32) sum += to_float(b[i]) * to_float(y[i]);
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  }
  if (lane == 0) out[slot] = sum;
}

}  // namespace

void router_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                            int slots, const float* dot_parts, int parts, const int* ids, const void* dy,
                            const void* down_bias, int dim, float* out, cudaStream_t stream) {
  if (slots_total == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_overlapped<sum_parts<T>>("router_weight_gradient",
                                    {static_cast<unsigned>((slots_total + 7) / 8), 256, 0, stream},
                                    permutation.slot_row, slots_total, slots, dot_parts, parts, ids,
                                    static_cast<const T*>(dy), static_cast<const T*>(down_bias), dim, out);
  });
}

}  // namespace moeref::cuda
