// Plain fp64 routed experts, forward and backward, written from SPEC.md 5 and sharing no code with what it
// judges.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "moeref/cuda/experts.hpp"

namespace moeref::cuda::test {

using bf16 = __nv_bfloat16;
inline double to_double(bf16 v) { return static_cast<double>(__bfloat162float(v)); }
/// An element of float32, bfloat16 or float16 as it lies in memory.
inline float read_element(DataType type, const char* bytes) {
  const auto as = [bytes]<class T>(T v) { return std::memcpy(&v, bytes, sizeof v), v; };
  if (type == DataType::float32) return as(0.0f);
  return type == DataType::float16 ? __half2float(as(__half{})) : __bfloat162float(as(bf16{}));
}
inline void write_element(DataType type, float v, char* bytes) {
  const auto put = [bytes](auto narrow) { std::memcpy(bytes, &narrow, sizeof narrow); };
  if (type == DataType::float32)
    put(v);
  else if (type == DataType::float16)
    put(__float2half_rn(v));
  else
    put(__float2bfloat16(v));
}
inline double round_to(DataType type, double v) {
  char bytes[4];
  write_element(type, static_cast<float>(v), bytes);
  return read_element(type, bytes);
}

struct HostCase {
  ExpertsConfig config{};
  std::vector<bf16> x, gate_up, down, gate_up_bias, down_bias, d_output;  // biases may be empty
  std::vector<int> ids;
  std::vector<float> weights;
  std::vector<std::uint8_t> mask;  // may be empty
};

struct HostResult {
  std::vector<double> output, dx, dweights, dgate_up, ddown, dgate_up_bias, ddown_bias;
};

inline std::vector<bf16> random_bf16(std::size_t n, double scale, std::mt19937_64& rng) {
  std::normal_distribution<float> normal(0.0f, static_cast<float>(scale));
  std::vector<bf16> v(n);
  for (bf16& e : v) e = __float2bfloat16(normal(rng));
  return v;
}

/// Gaussian, with random ids (the same one may come twice in a token) and weights.
inline HostCase make_case(ExpertsConfig f, bool bias, std::uint64_t seed) {
  std::mt19937_64 rng(seed);
  HostCase c;
  c.config = f;
  const std::size_t D = f.dim, I = f.inter_dim, W = f.up_width(), E = f.experts;
  c.x = random_bf16(f.tokens * D, 1, rng);
  c.d_output = random_bf16(f.tokens * D, 1, rng);
  c.gate_up = random_bf16(E * D * W, 1.2 / std::sqrt(D), rng);
  c.down = random_bf16(E * I * D, 1 / std::sqrt(I), rng);
  if (bias) c.gate_up_bias = random_bf16(E * W, 0.5, rng), c.down_bias = random_bf16(E * D, 0.5, rng);
  c.ids.resize(f.tokens * f.slots);
  c.weights.resize(c.ids.size());
  std::uniform_int_distribution<int> expert(0, f.experts - 1);
  std::uniform_real_distribution<float> weight(0.1f, 1.0f);
  for (std::size_t i = 0; i < c.ids.size(); ++i) c.ids[i] = expert(rng), c.weights[i] = weight(rng);
  return c;
}

struct HostActivation {
  double value, gate, up;  // value and its derivatives
};
inline HostActivation host_activation(Activation a, const ActivationParameters& p, double g, double u) {
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  double mg = 1, mu = 1;
  const double limit = p.limit, alpha = a == Activation::swiglu ? 1.0 : double(p.alpha);
  const bool clamp = a == Activation::quick_geglu ||
                     ((a == Activation::swiglu || a == Activation::swigluoai) && p.limit > 0);
  if (clamp) {
    if (g > limit) g = limit, mg = 0;
    if (u > limit) u = limit, mu = 0;
    if (u < -limit) u = -limit, mu = 0;
  }
  switch (a) {
    case Activation::relu2:
      return {u > 0 ? u * u : 0, 0, u > 0 ? 2 * u : 0};
    case Activation::geglu: {
      const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (g + 0.044715 * g * g * g));
      const double gelu = 0.5 * g * (1 + t),
                   d = 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * c * (1 + 3 * 0.044715 * g * g);
      return {gelu * u, d * u, gelu};
    }
    default: {
      const double s = sigmoid(alpha * g), v = g * s, one = a == Activation::swiglu ? 0 : 1;
      return {v * (u + one), (s + alpha * g * s * (1 - s)) * (u + one) * mg, v * mu};
    }
  }
}

/// Backward uses H rounded to the data type, as saved: a clamp's derivative jumps there.
inline HostResult host_experts(const HostCase& c) {
  const ExpertsConfig& f = c.config;
  const std::int64_t D = f.dim, I = f.inter_dim, W = f.up_width(), E = f.experts;
  HostResult r;
  r.output.assign(f.tokens * D, 0), r.dx.assign(f.tokens * D, 0), r.dweights.assign(f.tokens * f.slots, 0);
  r.dgate_up.assign(E * D * W, 0), r.ddown.assign(E * I * D, 0);
  r.dgate_up_bias.assign(E * W, 0), r.ddown_bias.assign(E * D, 0);
  const bool gated = is_gated(f.activation), interleaved = f.activation == Activation::quick_geglu;
  std::vector<double> h(W), dh(W), act(I), da(I);
  std::vector<HostActivation> grad(I);
  for (std::int64_t s = 0; s < f.tokens * f.slots; ++s) {
    const std::int64_t t = s / f.slots, e = c.ids[s];
    if (e < 0 || e >= E || (!c.mask.empty() && !c.mask[t])) continue;
    const double p = c.weights[s];
    const bf16 *x = &c.x[t * D], *dy = &c.d_output[t * D], *wg = &c.gate_up[e * D * W],
               *wd = &c.down[e * I * D];
    for (std::int64_t j = 0; j < W; ++j)
      h[j] = c.gate_up_bias.empty() ? 0 : to_double(c.gate_up_bias[e * W + j]);
    for (std::int64_t d = 0; d < D; ++d)
      for (std::int64_t j = 0; j < W; ++j) h[j] += to_double(x[d]) * to_double(wg[d * W + j]);
    const auto gate_at = [&](std::int64_t i) { return interleaved ? 2 * i : i; };
    const auto up_at = [&](std::int64_t i) { return !gated ? i : interleaved ? 2 * i + 1 : I + i; };
    for (std::int64_t i = 0; i < I; ++i) {
      act[i] = host_activation(f.activation, f.activation_parameters, gated ? h[gate_at(i)] : 0, h[up_at(i)])
                   .value;
      grad[i] = host_activation(f.activation, f.activation_parameters,
                                gated ? round_to(f.dtype, h[gate_at(i)]) : 0, round_to(f.dtype, h[up_at(i)]));
    }
    double dp = 0;
    for (std::int64_t d = 0; d < D; ++d) {
      const double b = c.down_bias.empty() ? 0 : to_double(c.down_bias[e * D + d]), g = to_double(dy[d]);
      double o = b;
      for (std::int64_t i = 0; i < I; ++i) o += act[i] * to_double(wd[i * D + d]);
      r.output[t * D + d] += p * o;
      dp += g * b;
      r.ddown_bias[e * D + d] += p * g;
    }
    std::fill(dh.begin(), dh.end(), 0);
    for (std::int64_t i = 0; i < I; ++i) {
      da[i] = 0;
      for (std::int64_t d = 0; d < D; ++d) {
        da[i] += to_double(dy[d]) * to_double(wd[i * D + d]);
        r.ddown[(e * I + i) * D + d] += p * grad[i].value * to_double(dy[d]);
      }
      dp += da[i] * grad[i].value;
      if (gated) dh[gate_at(i)] = p * da[i] * grad[i].gate;
      dh[up_at(i)] = p * da[i] * grad[i].up;
    }
    r.dweights[s] = dp;
    for (std::int64_t j = 0; j < W; ++j) r.dgate_up_bias[e * W + j] += dh[j];
    for (std::int64_t d = 0; d < D; ++d) {
      double sum = 0;
      for (std::int64_t j = 0; j < W; ++j) {
        r.dgate_up[(e * D + d) * W + j] += to_double(x[d]) * dh[j];
        sum += dh[j] * to_double(wg[d * W + j]);
      }
      r.dx[t * D + d] += sum;
    }
  }
  return r;
}

}  // namespace moeref::cuda::test
