// One warp per slot; the order of the sums depends on the shape alone.
#include "cuda_impl/permutation/input_slots.hpp"

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {
namespace {

template <class T, int N>
__global__ void dot_rows(const InputSlots in, const T* dy, std::int64_t total, int dim, float* out) {
  wait_for_earlier_kernels();
  const std::int64_t slot = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (slot >= total) return;
  const std::int64_t token = slot / in.slots;
  if (!in.has(token, static_cast<int>(slot % in.slots))) return;
  const int lane = threadIdx.x % 32;
  const T* x = static_cast<const T*>(in.rows) + token * dim;
  float sum = 0;
  for (int c = lane * N; c < dim; c += 32 * N) {
    float a[N], d[N];
    load<N>(x + c, a);
    load<N>(dy + token * dim + c, d);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += a[i] * d[i];
  }
  sum = warp_sum(sum);
  if (lane == 0) out[slot] = sum;
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
