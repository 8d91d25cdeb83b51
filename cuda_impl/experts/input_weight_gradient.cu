// One warp per slot; the order of the sums depends on the shape alone. Floor: x once a slot, and the rows
// read and written, at copy bandwidth.
#include "cuda_impl/experts/gradients.hpp"
#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {
namespace {

template <class T, int N>
__global__ void weigh_back(const int* slot_row, std::int64_t total, int slots, const T* x,
                           const float* weights, int dim, T* rows, float* out) {
  wait_for_earlier_kernels();
  const std::int64_t slot = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (slot >= total) return;
  const std::int64_t row = slot_row[slot];
  float sum = 0;
  if (row >= 0) {
    const float weight = weights[slot];
    const T* mine = x + slot / slots * dim;
    for (int c = lane * N; c < dim; c += 32 * N) {
      float a[N], d[N];
      load<N>(mine + c, a);
      load<N>(rows + row * dim + c, d);
#pragma unroll
      for (int i = 0; i < N; ++i) sum += a[i] * d[i], d[i] *= weight;
      store<N>(rows + row * dim + c, d);
    }
    sum = warp_sum(sum);
  }
  if (lane == 0) out[slot] = sum;
}

}  // namespace

void input_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                           int slots, const void* x, const float* weights, int dim, void* rows, float* out,
                           cudaStream_t stream) {
  if (slots_total == 0) return;
  with_type(dtype, [&]<class T>() {
    const LaunchShape shape{static_cast<unsigned>((slots_total + 7) / 8), 256, 0, stream};
    const auto run = [&]<int N>() {
      launch_overlapped<weigh_back<T, N>>("input_weight_gradient", shape, permutation.slot_row, slots_total,
                                          slots, static_cast<const T*>(x), weights, dim,
                                          static_cast<T*>(rows), out);
    };
    if (in_eights(dim, x, rows))
      run.template operator()<8>();
    else
      run.template operator()<1>();
  });
}

}  // namespace moeref::cuda
