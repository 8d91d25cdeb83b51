// Gradients of routing weights as products of a token's row with a row of its slot. One warp per slot; the
// order of the sums depends on the shape alone. Floor: both rows read once a slot, at copy bandwidth.
#include <type_traits>

#include "cuda_impl/experts/gradients.hpp"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/warp_dot.cuh"

namespace moeref::cuda {
namespace {

/// out[slot] = token . row; Row is T where the row is weighed then, else const T.
template <class T, int N, class Row>
__global__ void dot_with_tokens(const int* slot_row, std::int64_t total, int slots, const T* tokens,
                                const float* weights, int dim, Row* rows, float* out) {
  wait_for_earlier_kernels();
  const std::int64_t slot = std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (slot >= total) return;
  const std::int64_t row = slot_row[slot];
  float sum = 0;
  if (row >= 0) {
    const auto weigh = [&](int at, float(&v)[N]) {
      if constexpr (!std::is_const_v<Row>) {
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] *= weights[slot];
        store<N>(rows + row * dim + at, v);
      }
    };
    sum = warp_dot<N, T>(tokens + slot / slots * dim, rows + row * dim, dim, weigh);
  }
  if (threadIdx.x % 32 == 0) out[slot] = sum;
}

template <class T, class Row>
void launch_dots(const char* name, const Permutation& permutation, std::int64_t slots_total, int slots,
                 const void* tokens, const float* weights, int dim, Row* rows, float* out,
                 cudaStream_t stream) {
  const LaunchShape shape{static_cast<unsigned>((slots_total + 7) / 8), 256, 0, stream};
  const auto run = [&]<int N>() {
    launch_overlapped<dot_with_tokens<T, N, Row>>(name, shape, permutation.slot_row, slots_total, slots,
                                                  static_cast<const T*>(tokens), weights, dim, rows, out);
  };
  if (in_eights(dim, tokens, rows))
    run.template operator()<8>();
  else
    run.template operator()<1>();
}

}  // namespace

void input_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                           int slots, const void* x, const float* weights, int dim, void* rows, float* out,
                           cudaStream_t stream) {
  if (slots_total == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_dots<T>("input_weight_gradient", permutation, slots_total, slots, x, weights, dim,
                   static_cast<T*>(rows), out, stream);
  });
}

void output_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                            int slots, const void* dy, const void* o, int dim, float* out,
                            cudaStream_t stream) {
  if (slots_total == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_dots<T>("output_weight_gradient", permutation, slots_total, slots, dy, nullptr, dim,
                   static_cast<const T*>(o), out, stream);
  });
}

}  // namespace moeref::cuda
