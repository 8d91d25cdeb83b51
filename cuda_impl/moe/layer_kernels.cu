#include "cuda_impl/moe/layer_kernels.hpp"

#include "cuda_impl/activation/activation_math.cuh"
#include "cuda_impl/memory/typed_element.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

template <class F>
__global__ void each(std::int64_t count, F f) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) f(i);
}

struct Invert {
  const std::uint8_t* padding;
  std::uint8_t* mask;
  __device__ void operator()(std::int64_t t) const { mask[t] = padding[t] == 0; }
};
struct Sigmoid {
  float* z;
  __device__ void operator()(std::int64_t t) const { z[t] = sigmoid<true>(z[t]); }
};
struct SigmoidGradient {
  const float* s;
  float* d;
  __device__ void operator()(std::int64_t t) const { d[t] *= (1 - s[t]) * s[t]; }
};
struct Convert {
  const void* from;
  void* to;
  DataType from_type, to_type;
  __device__ void operator()(std::int64_t i) const {
    store_element<float>(to, to_type, i, load_element<float>(from, from_type, i));
  }
};

template <class F>
void run(const char* name, std::int64_t count, const F& f, cudaStream_t stream) {
  if (count == 0) return;
  each<<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(count, f);
  check(cudaGetLastError(), name);
}

}  // namespace

void token_mask(std::int64_t tokens, const std::uint8_t* padding, std::uint8_t* mask, cudaStream_t stream) {
  run("token_mask", tokens, Invert{padding, mask}, stream);
}

void sigmoid_in_place(std::int64_t tokens, float* z, cudaStream_t stream) {
  run("sigmoid_in_place", tokens, Sigmoid{z}, stream);
}

void convert_elements(std::int64_t count, const void* from, DataType from_type, void* to, DataType to_type,
                      cudaStream_t stream) {
  run("convert_elements", count, Convert{from, to, from_type, to_type}, stream);
}

void sigmoid_gradient(std::int64_t tokens, const float* s, float* d, cudaStream_t stream) {
  run("sigmoid_gradient", tokens, SigmoidGradient{s, d}, stream);
}

}  // namespace moeref::cuda
