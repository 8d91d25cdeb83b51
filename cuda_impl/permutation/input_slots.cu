// One warp per slot; the order of the sums depends on the shape alone.
#include "cuda_impl/permutation/input_slots.hpp"

#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/warp_dot.cuh"

namespace moeref::cuda {
namespace {

template <class T, int N>
__global__ void dot_rows(const InputSlots in, const T* dy, std::int64_t total, int dim, float* out) {
  wait_for_earlier_kernels();
  const std::int64_t slot = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (slot >= total) return;
  const std::int64_t token = slot / in.slots;
  if (!in.has(token, static_cast<int>(slot % in.slots))) return;
  const float sum = warp_dot<N>(static_cast<const T*>(in.rows) + token * dim, dy + token * dim, dim);
  if (threadIdx.x % 32 == 0) out[slot] = sum;
}

}  // namespace

void input_slot_gradients(DataType dtype, const InputSlots& in, const void* dy, std::int64_t tokens, int dim,
                          float* out, cudaStream_t stream) {
  const std::int64_t total = tokens * in.slots;
  if (in.experts == 0 || total == 0) return;
  with_type(dtype, [&]<class T>() {
    const LaunchShape shape{static_cast<unsigned>((total + 7) / 8), 256, 0, stream};
    if (in_eights(dim, in.rows, dy))
      launch_overlapped<dot_rows<T, 8>>("input_slot_gradients", shape, in, static_cast<const T*>(dy), total,
                                        dim, out);
    else
      launch_overlapped<dot_rows<T, 1>>("input_slot_gradients", shape, in, static_cast<const T*>(dy), total,
                                        dim, out);
  });
}

}  // namespace moeref::cuda
