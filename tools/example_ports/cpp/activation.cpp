#include "activation.hpp"

#include <algorithm>
#include <cmath>

#include "call.hpp"

namespace example {
namespace {

constexpr float kSqrt2OverPi = 0.7978845608f, kCubic = 0.044715f;

float gelu(float x) { return 0.5f * x * (1.0f + std::tanh(kSqrt2OverPi * (x + kCubic * x * x * x))); }
float gelu_slope(float x) {
  const float t = std::tanh(kSqrt2OverPi * (x + kCubic * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kSqrt2OverPi * (1.0f + 3.0f * kCubic * x * x);
}

}  // namespace

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

Activation Activation::of_experts(const JsonFields& config) {
  const std::string name = config.text("expert_activation");
  if (name == "swiglu" || name == "relu2") return of_mlp(name, config.number("swiglu_limit"));
  Activation out;
  out.alpha = config.number("activation_alpha");
  out.limit = config.number("activation_limit");
  if (name == "swigluoai")
    out.kind = Kind::swigluoai;
  else if (name == "quick_geglu")
    out.kind = Kind::quick_geglu;
  else if (name == "geglu")
    out.kind = Kind::geglu;
  else
    throw NotSupported("no activation " + name);
  return out;
}

Activation Activation::of_mlp(const std::string& name, float swiglu_limit) {
  need(name == "swiglu" || name == "relu2", "no activation " + name);
  Activation out;
  out.kind = name == "swiglu" ? Kind::swiglu : Kind::relu2;
  out.limit = swiglu_limit;
  return out;
}

float Activation::value(float gate, float up) const {
  const bool clamps = limit > 0.0f || kind == Kind::quick_geglu;
  const float g = clamps ? std::min(gate, limit) : gate, u = clamps ? std::clamp(up, -limit, limit) : up;
  switch (kind) {
    case Kind::swiglu:
      return g * sigmoid(g) * u;
    case Kind::swigluoai:
    case Kind::quick_geglu:
      return g * sigmoid(alpha * g) * (u + 1.0f);
    case Kind::geglu:
      return gelu(gate) * up;
    case Kind::relu2:
      break;
  }
  return up > 0.0f ? up * up : 0.0f;
}

void Activation::slopes(float gate, float up, float& by_gate, float& by_up) const {
  const bool clamps = (limit > 0.0f || kind == Kind::quick_geglu) && kind != Kind::geglu;
  const float g = clamps ? std::min(gate, limit) : gate, u = clamps ? std::clamp(up, -limit, limit) : up;
  // A clamp lets nothing through of what lies outside.
  const float gate_passes = g == gate ? 1.0f : 0.0f, up_passes = u == up ? 1.0f : 0.0f;
  switch (kind) {
    case Kind::swiglu: {
      const float s = sigmoid(g);
      by_gate = gate_passes * (s * (1.0f + g * (1.0f - s)) * u);
      by_up = up_passes * (g * s);
      return;
    }
    case Kind::swigluoai:
    case Kind::quick_geglu: {
      const float s = sigmoid(alpha * g);
      by_gate = gate_passes * (s * (1.0f + alpha * g * (1.0f - s)) * (u + 1.0f));
      by_up = up_passes * (g * s);
      return;
    }
    case Kind::geglu:
      by_gate = gelu_slope(gate) * up;
      by_up = gelu(gate);
      return;
    case Kind::relu2:
      break;
  }
  by_gate = 0.0f;
  by_up = up > 0.0f ? 2.0f * up : 0.0f;
}

void Activation::forward(const float* h, long width, float* out) const {
  for (long i = 0; i < width; ++i) out[i] = value(gated() ? h[gate_column(i)] : 0.0f, h[up_column(i, width)]);
}

void Activation::backward(const float* h, long width, const float* d_out, float* d_h) const {
  for (long i = 0; i < width; ++i) {
    float by_gate = 0.0f, by_up = 0.0f;
    slopes(gated() ? h[gate_column(i)] : 0.0f, h[up_column(i, width)], by_gate, by_up);
    if (gated()) d_h[gate_column(i)] = d_out[i] * by_gate;
    d_h[up_column(i, width)] = d_out[i] * by_up;
  }
}

}  // namespace example
