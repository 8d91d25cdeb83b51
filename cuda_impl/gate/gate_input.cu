// One warp per token makes the gate's input and turns its gradient back; one thread per column and range of
// tokens adds the norm's factors' gradient.
//
// Floor of each pass: x, noise and h or dh moved once, 4 T D bytes in bfloat16 without noise (31 us at T =
// 16384, D = 2048 and 4.3 TB/s). The second reading of a token comes from the L2.
#include "cuda_impl/gate/gate_input.hpp"

#include <algorithm>
#include <cmath>

#include "cuda_impl/gate/product.hpp"
#include "cuda_impl/token_blocks/warp_reduce.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kInputWarps = 8, kScaleThreads = 128;

struct InputArguments {
  GateInputTokens tokens;
  std::int64_t count;
  int dim;
  DataType x_type, parameter_type, input_type;
  bool norm;
  float eps, root;  // D^-1/2
};

InputArguments input_arguments(const GateConfig& c, const GateInputTokens& tokens) {
  return {tokens,
          c.tokens,
          c.dim,
          c.x_type,
          c.parameter_type,
          input_type(c),
          c.router_input_norm,
          static_cast<float>(c.router_input_norm_eps),
          static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.dim)))};
}

__device__ float noise_at(const InputArguments& p, std::int64_t at) {
  return p.tokens.noise ? load_element<float>(p.tokens.noise, p.x_type, at) : 1.0f;
}
__device__ float seen_at(const InputArguments& p, std::int64_t at) {
  const float x = load_element<float>(p.tokens.x, p.x_type, at);
  return p.tokens.noise ? round_to(x * noise_at(p, at), p.x_type) : x;
}
__device__ float scale_at(const InputArguments& p, int i) {
  return load_element<float>(p.tokens.scale, p.parameter_type, i);
}

/// 1 / sqrt(mean square + eps) from this lane's sum of squares. All lanes call it.
__device__ float inverse_root(const InputArguments& p, float squares) {
  return 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(p.dim) + p.eps);
}

__global__ void input_kernel(const InputArguments p, void* h) {
  const int lane = threadIdx.x % 32;
  const std::int64_t t = blockIdx.x * std::int64_t{kInputWarps} + threadIdx.x / 32, row = t * p.dim;
  if (t >= p.count) return;
  float inverse = 1.0f;
  if (p.norm) {
    float squares = 0;
    for (int i = lane; i < p.dim; i += 32) {
      const float a = seen_at(p, row + i);
      squares += a * a;
    }
    inverse = inverse_root(p, squares);
  }
  for (int i = lane; i < p.dim; i += 32) {
    float v = seen_at(p, row + i);
    if (p.norm) v = round_to(v * inverse, p.x_type) * scale_at(p, i) * p.root;
    store_element(h, p.input_type, row + i, v);
  }
}

/// With a = x n and e = dh s / sqrt(D): da_i = r e_i - a_i r^3 / D sum_j e_j a_j, and dx = da n.
__global__ void input_gradient_kernel(const InputArguments p, const void* dh, void* dx, bool add,
                                      float* inverse_roots) {
  const int lane = threadIdx.x % 32;
  const std::int64_t t = blockIdx.x * std::int64_t{kInputWarps} + threadIdx.x / 32, row = t * p.dim;
  if (t >= p.count) return;
  const auto by_normed = [&](int i) {
    const float d = load_element<float>(dh, p.input_type, row + i);
    return p.norm ? d * p.root * scale_at(p, i) : d;
  };
  float inverse = 1.0f, through = 0.0f;
  if (p.norm) {
    float squares = 0, inner = 0;
    for (int i = lane; i < p.dim; i += 32) {
      const float a = seen_at(p, row + i);
      squares += a * a;
      inner += by_normed(i) * a;
    }
    inverse = inverse_root(p, squares);
    through = warp_sum(inner) * (inverse * inverse * inverse) / static_cast<float>(p.dim);
    if (lane == 0) inverse_roots[t] = inverse;
  }
  if (!dx) return;
  for (int i = lane; i < p.dim; i += 32) {
    float d = by_normed(i);
    if (p.norm) d = d * inverse - seen_at(p, row + i) * through;
    if (p.tokens.noise) d *= noise_at(p, row + i);
    if (add) d += load_element<float>(dx, p.x_type, row + i);
    store_element(dx, p.x_type, row + i, d);
  }
}

__global__ void scale_gradient_kernel(const InputArguments p, const void* dh, const float* inverse_roots,
                                      std::int64_t tokens_per_part, float* parts) {
  const int i = blockIdx.x * kScaleThreads + threadIdx.x;
  if (i >= p.dim) return;
  const std::int64_t first = blockIdx.y * tokens_per_part, last = min(first + tokens_per_part, p.count);
  float sum = 0;
  for (std::int64_t t = first; t < last; ++t) {
    const std::int64_t at = t * p.dim + i;
    sum += load_element<float>(dh, p.input_type, at) * p.root *
           round_to(seen_at(p, at) * inverse_roots[t], p.x_type);
  }
  parts[blockIdx.y * std::int64_t{p.dim} + i] = sum;
}

unsigned token_warp_blocks(const GateConfig& c) {
  return static_cast<unsigned>((c.tokens + kInputWarps - 1) / kInputWarps);
}

}  // namespace

void make_gate_input(const GateConfig& c, const GateInputTokens& tokens, void* h, cudaStream_t stream) {
  if (c.tokens == 0) return;
  input_kernel<<<token_warp_blocks(c), 32 * kInputWarps, 0, stream>>>(input_arguments(c, tokens), h);
  check(cudaGetLastError(), "make_gate_input");
}

void gate_input_gradient(const GateConfig& c, const GateInputTokens& tokens, const void* dh, void* dx,
                         bool add, float* inverse_roots, cudaStream_t stream) {
  if (c.tokens == 0) return;
  input_gradient_kernel<<<token_warp_blocks(c), 32 * kInputWarps, 0, stream>>>(input_arguments(c, tokens), dh,
                                                                               dx, add, inverse_roots);
  check(cudaGetLastError(), "gate_input_gradient");
}

int gate_input_scale_parts(const GateConfig& c) {
  return static_cast<int>(std::clamp<std::int64_t>((c.tokens + 31) / 32, 1, 128));
}

void gate_input_scale_gradient(const GateConfig& c, const GateInputTokens& tokens, const void* dh,
                               const float* inverse_roots, float* parts, void* d_scale, cudaStream_t stream) {
  const int count = gate_input_scale_parts(c);
  const dim3 grid(static_cast<unsigned>((c.dim + kScaleThreads - 1) / kScaleThreads),
                  static_cast<unsigned>(count));
  scale_gradient_kernel<<<grid, kScaleThreads, 0, stream>>>(input_arguments(c, tokens), dh, inverse_roots,
                                                            (c.tokens + count - 1) / count, parts);
  check(cudaGetLastError(), "gate_input_scale_gradient");
  sum_parts(parts, count, c.dim, DataType::float32, c.parameter_type, d_scale, stream);
}

}  // namespace moeref::cuda
