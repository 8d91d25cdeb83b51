// The activations of SPEC.md 5 as functors: forward(g, u) and backward(g, u, d) in fp32. relu2 reads only u.
// Callers ask `clamps` once and take the loop with or without clamps; `in_mlp` says that the dense MLP has
// it. The end of the file has one row per activation.
#pragma once

#include <type_traits>
#include <utility>

#include "cuda_impl/memory/ptx_sm80.cuh"
#include "moeref/cuda/activation.hpp"

namespace moeref::cuda {

/// Where the gate and up columns of H are: in two halves, alternating, or up alone.
enum class UpLayout { halves, interleaved, up_only };

struct ActivationGradient {
  float value, gate, up;
};

// Clamps that keep NaN, unlike fminf and fmaxf.
__device__ __forceinline__ float at_most(float x, float limit) { return x > limit ? limit : x; }
__device__ __forceinline__ float at_least(float x, float limit) { return x < limit ? limit : x; }
/// Accurate: to 2 ulps of fp32, for results that are stored as float32; else what bfloat16 needs.
template <bool Accurate = false>
__device__ __forceinline__ float sigmoid(float x) {
  if constexpr (Accurate)
    return __fdiv_rn(1.0f, 1.0f + expf(-x));
  else
    return reciprocal_approximately(1.0f + exp2_approximately(-1.4426950408889634f * x));
}

struct Swiglu {
  static constexpr UpLayout layout = UpLayout::halves;
  static constexpr bool in_mlp = true;
  static __device__ bool clamps(const ActivationParameters& p) { return p.limit > 0; }
  template <bool Clamp, bool Accurate = false>
  static __device__ float forward(float g, float u, const ActivationParameters& p) {
    if (Clamp) g = at_most(g, p.limit), u = at_most(at_least(u, -p.limit), p.limit);
    return g * sigmoid<Accurate>(g) * u;
  }
  template <bool Clamp, bool Accurate = false>
  static __device__ ActivationGradient backward(float g, float u, float d, const ActivationParameters& p) {
    float open_gate = 1, open_up = 1;
    if (Clamp) {
      open_gate = g <= p.limit, open_up = fabsf(u) <= p.limit;
      g = at_most(g, p.limit), u = at_most(at_least(u, -p.limit), p.limit);
    }
    const float s = sigmoid<Accurate>(g), silu = g * s;
    return {silu * u, d * u * (s + silu * (1 - s)) * open_gate, d * silu * open_up};
  }
};

// g sigmoid(alpha g) (u + 1), with clamps on g and u when `clamp`.
template <UpLayout Layout, bool AlwaysClamp>
struct ScaledGlu {
  static constexpr UpLayout layout = Layout;
  static constexpr bool in_mlp = false;
  static __device__ bool clamps(const ActivationParameters& p) { return AlwaysClamp || p.limit > 0; }
  template <bool Clamp, bool Accurate = false>
  static __device__ float forward(float g, float u, const ActivationParameters& p) {
    if (Clamp) g = at_most(g, p.limit), u = at_most(at_least(u, -p.limit), p.limit);
    return g * sigmoid<Accurate>(p.alpha * g) * (u + 1);
  }
  template <bool Clamp, bool Accurate = false>
  static __device__ ActivationGradient backward(float g, float u, float d, const ActivationParameters& p) {
    float open_gate = 1, open_up = 1;
    if (Clamp) {
      open_gate = g <= p.limit, open_up = fabsf(u) <= p.limit;
      g = at_most(g, p.limit), u = at_most(at_least(u, -p.limit), p.limit);
    }
    const float s = sigmoid<Accurate>(p.alpha * g), v = g * s;
    return {v * (u + 1), d * (u + 1) * (s + p.alpha * v * (1 - s)) * open_gate, d * v * open_up};
  }
};
using SwigluOai = ScaledGlu<UpLayout::halves, false>;
using QuickGeglu = ScaledGlu<UpLayout::interleaved, true>;

// gelu_tanh(g) = g sigmoid(2 z), z = sqrt(2 / pi) (g + 0.044715 g^3).
struct Geglu {
  static constexpr UpLayout layout = UpLayout::halves;
  static constexpr bool in_mlp = false;
  static constexpr float c = 1.5957691216057308f, c3 = 0.044715f;  // 2 sqrt(2 / pi)
  static __device__ bool clamps(const ActivationParameters&) { return false; }
  template <bool, bool Accurate = false>
  static __device__ float forward(float g, float u, const ActivationParameters&) {
    return g * sigmoid<Accurate>(c * (g + c3 * g * g * g)) * u;
  }
  template <bool Clamp, bool Accurate = false>
  static __device__ ActivationGradient backward(float g, float u, float d, const ActivationParameters&) {
    const float s = sigmoid<Accurate>(c * (g + c3 * g * g * g)), gelu = g * s;
    return {gelu * u, d * u * (s + g * s * (1 - s) * c * (1 + 3 * c3 * g * g)), d * gelu};
  }
};

struct Relu2 {
  static constexpr UpLayout layout = UpLayout::up_only;
  static constexpr bool in_mlp = true;
  static __device__ bool clamps(const ActivationParameters&) { return false; }
  template <bool, bool Accurate = false>
  static __device__ float forward(float, float u, const ActivationParameters&) {
    const float r = at_least(u, 0.0f);
    return r * r;
  }
  template <bool Clamp, bool Accurate = false>
  static __device__ ActivationGradient backward(float, float u, float d, const ActivationParameters&) {
    const float r = at_least(u, 0.0f);
    return {r * r, 0, d * 2 * r};
  }
};

// min(silu(g), limit) times clamped u.
struct SwigluClampedAfter {
  static constexpr UpLayout layout = UpLayout::halves;
  static constexpr bool in_mlp = false;
  static __device__ bool clamps(const ActivationParameters& p) { return p.limit > 0; }
  template <bool Clamp, bool Accurate = false>
  static __device__ float forward(float g, float u, const ActivationParameters& p) {
    const float silu = g * sigmoid<Accurate>(g);
    return Clamp ? at_most(silu, p.limit) * at_most(at_least(u, -p.limit), p.limit) : silu * u;
  }
  template <bool Clamp, bool Accurate = false>
  static __device__ ActivationGradient backward(float g, float u, float d, const ActivationParameters& p) {
    const float s = sigmoid<Accurate>(g), slope = s + g * s * (1 - s);
    float silu = g * s, open_gate = 1, open_up = 1;
    if (Clamp) {
      open_gate = silu <= p.limit, open_up = fabsf(u) <= p.limit;
      silu = at_most(silu, p.limit), u = at_most(at_least(u, -p.limit), p.limit);
    }
    return {silu * u, d * u * slope * open_gate, d * silu * open_up};
  }
};

// beta tanh(g / beta) sigmoid(g) lambda tanh(u / lambda), with alpha for beta and limit for lambda.
struct Situ {
  static constexpr UpLayout layout = UpLayout::halves;
  static constexpr bool in_mlp = true;
  static __device__ bool clamps(const ActivationParameters&) { return false; }
  template <bool, bool Accurate = false>
  static __device__ float forward(float g, float u, const ActivationParameters& p) {
    const float up = p.limit > 0 ? p.limit * tanhf(u / p.limit) : u;
    return p.alpha * tanhf(g / p.alpha) * sigmoid<Accurate>(g) * up;
  }
  template <bool Clamp, bool Accurate = false>
  static __device__ ActivationGradient backward(float g, float u, float d, const ActivationParameters& p) {
    const float t = tanhf(g / p.alpha), s = sigmoid<Accurate>(g), gate = p.alpha * t * s;
    float up = u, up_slope = 1;
    if (p.limit > 0) {
      const float bound = tanhf(u / p.limit);
      up = p.limit * bound, up_slope = 1 - bound * bound;
    }
    return {gate * up, d * up * ((1 - t * t) * s + gate * (1 - s)), d * gate * up_slope};
  }
};

/// A function of one number and its slope.
struct ValueAndSlope {
  float value, slope;
};
struct Silu {
  template <bool Accurate>
  static __device__ ValueAndSlope of(float x) {
    const float s = sigmoid<Accurate>(x), silu = x * s;
    return {silu, s + silu * (1 - s)};
  }
};
struct Gelu {
  template <bool>
  static __device__ ValueAndSlope of(float x) {
    const float phi = 0.5f * (1.0f + erff(0.70710678118654752f * x));
    return {x * phi, phi + x * (0.39894228040143268f * expf(-0.5f * x * x))};
  }
};
struct GeluTanh {
  template <bool Accurate>
  static __device__ ValueAndSlope of(float x) {
    const float s = sigmoid<Accurate>(Geglu::c * (x + Geglu::c3 * x * x * x));
    return {x * s, s + x * s * (1 - s) * Geglu::c * (1 + 3 * Geglu::c3 * x * x)};
  }
};
struct Relu {
  template <bool>
  static __device__ ValueAndSlope of(float x) {
    return {at_least(x, 0.0f), x > 0.0f ? 1.0f : 0.0f};
  }
};

/// f(g) u.
template <class F>
struct GatedBy {
  static constexpr UpLayout layout = UpLayout::halves;
  static constexpr bool in_mlp = false;
  static __device__ bool clamps(const ActivationParameters&) { return false; }
  template <bool, bool Accurate = false>
  static __device__ float forward(float g, float u, const ActivationParameters&) {
    return F::template of<Accurate>(g).value * u;
  }
  template <bool, bool Accurate = false>
  static __device__ ActivationGradient backward(float g, float u, float d, const ActivationParameters&) {
    const ValueAndSlope f = F::template of<Accurate>(g);
    return {f.value * u, d * u * f.slope, d * f.value};
  }
};

/// f(u).
template <class F>
struct UpAlone {
  static constexpr UpLayout layout = UpLayout::up_only;
  static constexpr bool in_mlp = false;
  static __device__ bool clamps(const ActivationParameters&) { return false; }
  template <bool, bool Accurate = false>
  static __device__ float forward(float, float u, const ActivationParameters&) {
    return F::template of<Accurate>(u).value;
  }
  template <bool, bool Accurate = false>
  static __device__ ActivationGradient backward(float, float u, float d, const ActivationParameters&) {
    const ValueAndSlope f = F::template of<Accurate>(u);
    return {f.value, 0, d * f.slope};
  }
};

template <Activation>
struct ActivationRow;
template <>
struct ActivationRow<Activation::swiglu> : std::type_identity<Swiglu> {};
template <>
struct ActivationRow<Activation::swigluoai> : std::type_identity<SwigluOai> {};
template <>
struct ActivationRow<Activation::quick_geglu> : std::type_identity<QuickGeglu> {};
template <>
struct ActivationRow<Activation::geglu> : std::type_identity<Geglu> {};
template <>
struct ActivationRow<Activation::relu2> : std::type_identity<Relu2> {};
template <>
struct ActivationRow<Activation::geglu_erf> : std::type_identity<GatedBy<Gelu>> {};
template <>
struct ActivationRow<Activation::silu> : std::type_identity<UpAlone<Silu>> {};
template <>
struct ActivationRow<Activation::gelu> : std::type_identity<UpAlone<Gelu>> {};
template <>
struct ActivationRow<Activation::gelu_tanh> : std::type_identity<UpAlone<GeluTanh>> {};
template <>
struct ActivationRow<Activation::relu> : std::type_identity<UpAlone<Relu>> {};
template <>
struct ActivationRow<Activation::situ> : std::type_identity<Situ> {};
template <>
struct ActivationRow<Activation::swiglu_clamped_after> : std::type_identity<SwigluClampedAfter> {};

/// The functor of an activation. One without its row does not compile: the tables of products ask for all.
template <Activation A>
using MathOf = typename ActivationRow<A>::type;

/// Calls f.template operator()<MathOf<A>>() for an activation A known at run time only.
template <class F>
void with_activation(Activation activation, const F& f) {
  [&]<int... A>(std::integer_sequence<int, A...>) {
    (void)((static_cast<int>(activation) == A &&
            (f.template operator()<MathOf<static_cast<Activation>(A)>>(), true)) ||
           ...);
  }
  (std::make_integer_sequence<int, kActivationCount>{});
}

}  // namespace moeref::cuda
