// What the gate multiplies by its weight where that is not x itself (SPEC.md 10): tokens times noise
// (router_jitter), normalised ones (router_input_norm), or both; and the gradients through it. The gate's own
// kernels see a matrix of another type at most.
#pragma once

#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

inline bool makes_input(const GateConfig& c) { return c.router_jitter || c.router_input_norm; }
/// The type of what enters the gate's products.
inline DataType input_type(const GateConfig& c) { return c.router_input_norm ? c.compute_type() : c.x_type; }

/// Tokens before any norm: x [T, D] in x_type, times noise in the same type where there is any; and the
/// norm's factors [D] in parameter_type, null without one.
struct GateInputTokens {
  const void *x, *noise, *scale;

  GateInputTokens(const GateConfig& c, const GateParameters& w, const GateInput& in)
      : x(in.x),
        noise(c.router_jitter ? in.noise : nullptr),
        scale(c.router_input_norm ? w.input_scale : nullptr) {}
};

/// h [T, D] in input_type(): round(x n), or round(round(x n) r) s / sqrt(D), r the inverse root of the
/// token's mean square, in fp32 with the outer rounding to `input_type`, the inner ones to x_type.
void make_gate_input(const GateConfig& config, const GateInputTokens& tokens, void* h, cudaStream_t stream);

/// From dh [T, D] in input_type() to the gradient of x, in fp32, stored in x_type or added to what dx holds
/// and rounded once; dx may be null. `inverse_roots` [T] are written under a norm, for
/// gate_input_scale_gradient.
void gate_input_gradient(const GateConfig& config, const GateInputTokens& tokens, const void* dh, void* dx,
                         bool add, float* inverse_roots, cudaStream_t stream);

/// Ranges of tokens whose parts of the gradient of `scale` are added one after another.
int gate_input_scale_parts(const GateConfig& config);
/// The gradient of `scale` [D], in parameter_type, by way of `parts` [gate_input_scale_parts(), D].
void gate_input_scale_gradient(const GateConfig& config, const GateInputTokens& tokens, const void* dh,
                               const float* inverse_roots, float* parts, void* d_scale, cudaStream_t stream);

}  // namespace moeref::cuda
