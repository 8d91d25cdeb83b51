// One block per token; the sum over its columns has an order that depends on the width alone.
// Floor: forward 3 T I elements, backward 6 T I, at copy bandwidth.
#include "cuda_impl/mlp/mlp_activation.hpp"

#include <algorithm>
#include <type_traits>

#include "cuda_impl/activation/activation_math.cuh"
#include "cuda_impl/memory/element.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

template <class T, class Act>
__global__ void forward(int inter_dim, const T* __restrict__ gate, const T* __restrict__ up,
                        const float* __restrict__ row_scale, ActivationParameters parameters,
                        T* __restrict__ a) {
  constexpr bool accurate = std::is_same_v<T, float>;
  const std::int64_t first = std::int64_t{blockIdx.x} * inter_dim;
  const float scale = row_scale != nullptr ? row_scale[blockIdx.x] : 1.0f;
  const bool clamp = Act::clamps(parameters);
  for (std::int64_t i = first + threadIdx.x; i < first + inter_dim; i += blockDim.x) {
    const float g = Act::layout == UpLayout::up_only ? 0.0f : to_float(gate[i]), u = to_float(up[i]);
    const float v = clamp ? Act::template forward<true, accurate>(g, u, parameters)
                          : Act::template forward<false, accurate>(g, u, parameters);
    a[i] = from_float<T>(v * scale);
  }
}

// `a` and `d_a` may be the same array.
template <class T, class Act>
__global__ void backward(int inter_dim, const T* __restrict__ gate, const T* __restrict__ up,
                         const float* __restrict__ row_scale, ActivationParameters parameters, const T* d_a,
                         T* __restrict__ d_gate, T* __restrict__ d_up, T* a,
                         float* __restrict__ d_row_scale) {
  constexpr bool accurate = std::is_same_v<T, float>;
  __shared__ float warps[8];
  const std::int64_t first = std::int64_t{blockIdx.x} * inter_dim;
  const float scale = row_scale != nullptr ? row_scale[blockIdx.x] : 1.0f;
  const bool clamp = Act::clamps(parameters);
  float dot = 0;
  for (std::int64_t i = first + threadIdx.x; i < first + inter_dim; i += blockDim.x) {
    const float g = Act::layout == UpLayout::up_only ? 0.0f : to_float(gate[i]), u = to_float(up[i]);
    const float d = to_float(d_a[i]);
    const ActivationGradient v = clamp ? Act::template backward<true, accurate>(g, u, d * scale, parameters)
                                       : Act::template backward<false, accurate>(g, u, d * scale, parameters);
    dot += d * v.value;
    if constexpr (Act::layout != UpLayout::up_only) d_gate[i] = from_float<T>(v.gate);
    d_up[i] = from_float<T>(v.up);
    a[i] = from_float<T>(v.value * scale);
  }
  if (d_row_scale == nullptr) return;
  for (int lanes = 16; lanes > 0; lanes /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, lanes);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = dot;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int w = 0; w < static_cast<int>(blockDim.x / 32); ++w) sum += warps[w];
    d_row_scale[blockIdx.x] = sum;
  }
}

int threads_of(int inter_dim) { return std::clamp((inter_dim + 31) / 32 * 32, 32, 256); }

ActivationParameters parameters_of(const MLPConfig& c) {
  if (c.activation == Activation::situ) return {c.situ_beta, c.situ_linear_beta};
  return {0.0f, c.swiglu_limit};
}

/// f.template operator()<T, Act>() for the config's type and activation.
template <class F>
void with_type_and_activation(const MLPConfig& c, const F& f) {
  with_type(c.dtype, [&]<class T>() {
    with_activation(c.activation, [&]<class Act>() {
      if constexpr (Act::in_mlp) f.template operator()<T, Act>();
    });
  });
}

}  // namespace

void mlp_activation(const MLPConfig& c, const void* gate, const void* up, const float* row_scale, void* a,
                    cudaStream_t stream) {
  if (c.tokens == 0) return;
  with_type_and_activation(c, [&]<class T, class Act>() {
    forward<T, Act><<<static_cast<unsigned>(c.tokens), threads_of(c.inter_dim), 0, stream>>>(
        c.inter_dim, static_cast<const T*>(gate), static_cast<const T*>(up), row_scale, parameters_of(c),
        static_cast<T*>(a));
  });
  check(cudaGetLastError(), "mlp_activation");
}

void mlp_activation_gradient(const MLPConfig& c, const void* gate, const void* up, const float* row_scale,
                             const void* d_a, void* d_gate, void* d_up, void* a, float* d_row_scale,
                             cudaStream_t stream) {
  if (c.tokens == 0) return;
  with_type_and_activation(c, [&]<class T, class Act>() {
    backward<T, Act><<<static_cast<unsigned>(c.tokens), threads_of(c.inter_dim), 0, stream>>>(
        c.inter_dim, static_cast<const T*>(gate), static_cast<const T*>(up), row_scale, parameters_of(c),
        static_cast<const T*>(d_a), static_cast<T*>(d_gate), static_cast<T*>(d_up), static_cast<T*>(a),
        d_row_scale);
  });
  check(cudaGetLastError(), "mlp_activation_gradient");
}

}  // namespace moeref::cuda
