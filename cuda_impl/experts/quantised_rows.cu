// One block per row. Floor: sums read and rows written once, at copy bandwidth.
#include "cuda_impl/experts/quantised_rows.hpp"

#include "cuda_impl/activation/activation_math.cuh"
#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"

namespace moeref::cuda {
namespace {

constexpr unsigned kSumThreads = 128;

template <class T, class Act>
__global__ void __launch_bounds__(kSumThreads)
    store_up(const UpSums s, const ActivationParameters parameters) {
  wait_for_earlier_kernels();
  const std::int64_t row = blockIdx.x;
  const int e = s.which.expert_of(row);
  if (e < 0) return;
  constexpr bool gated = Act::layout != UpLayout::up_only;
  const int width = gated ? 2 * s.inter_dim : s.inter_dim;
  const auto stored = [&](int column) {
    float v = s.sums[row * width + column];
    if (s.bias) v += to_float(static_cast<const T*>(s.bias)[std::int64_t{e} * width + column]);
    const T h = from_float<T>(v);
    if (s.h) static_cast<T*>(s.h)[row * width + column] = h;
    return to_float(h);
  };
  const float weight = s.row_weight ? s.row_weight[row] : 1.0f;
  const bool clamp = Act::clamps(parameters);
  for (int i = threadIdx.x; i < s.inter_dim; i += kSumThreads) {
    const bool pairs = Act::layout == UpLayout::interleaved;
    const float g = gated ? stored(pairs ? 2 * i : i) : 0.0f, u = stored(!gated  ? i
                                                                         : pairs ? 2 * i + 1
                                                                                 : s.inter_dim + i);
    const float v = clamp ? Act::template forward<true, true>(g, u, parameters)
                          : Act::template forward<false, true>(g, u, parameters);
    static_cast<T*>(s.a)[row * s.inter_dim + i] = from_float<T>(v * weight);
  }
}

template <class T>
__global__ void __launch_bounds__(kSumThreads) store_down(const DownSums s) {
  wait_for_earlier_kernels();
  const std::int64_t row = blockIdx.x;
  const int e = s.which.expert_of(row);
  if (e < 0) return;
  const float weight = s.row_weight[row];
  for (int i = threadIdx.x; i < s.dim; i += kSumThreads) {
    const std::int64_t at = row * s.dim + i;
    float v = s.sums[at];
    if (s.bias) {
      const float b = to_float(static_cast<const T*>(s.bias)[std::int64_t{e} * s.dim + i]);
      v += s.scale_product ? b : weight * b;
    }
    if (s.products) static_cast<T*>(s.products)[at] = from_float<T>(v);
    static_cast<T*>(s.rows)[at] = from_float<T>(s.scale_product ? v * weight : v);
  }
}

LaunchShape block_per_row(const ChunkRows& which, cudaStream_t stream) {
  return {static_cast<unsigned>(which.room), kSumThreads, 0, stream};
}

}  // namespace

void store_up_sums(DataType dtype, const UpSums& up, Activation activation,
                   const ActivationParameters& parameters, cudaStream_t stream) {
  if (up.which.room == 0) return;
  with_type(dtype, [&]<class T>() {
    with_activation(activation, [&]<class Act>() {
      launch_overlapped<store_up<T, Act>>("store_up_sums", block_per_row(up.which, stream), up, parameters);
    });
  });
}

void store_down_sums(DataType dtype, const DownSums& down, cudaStream_t stream) {
  if (down.which.room == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_overlapped<store_down<T>>("store_down_sums", block_per_row(down.which, stream), down);
  });
}

}  // namespace moeref::cuda
