// What the gate multiplies by its weight where that is not x itself (SPEC.md 10): tokens times noise
// (router_jitter), normalised ones (router_input_norm), or both. The gate's own kernels see a matrix of
// another type at most.
#pragma once

#include <cmath>

#include "cuda_impl/norm/rms_norm.hpp"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

inline bool makes_input(const GateConfig& c) { return c.router_jitter || c.router_input_norm; }
/// The type of what enters the gate's products.
inline DataType input_type(const GateConfig& c) { return c.router_input_norm ? c.compute_type() : c.x_type; }

/// The input as rows of x [T, D], times noise, over their root mean square, times the norm's factors [D] and
/// D^-1/2.
inline NormedRows gate_input_rows(const GateConfig& c, const GateParameters& w, const GateInput& in) {
  return {c.tokens,
          c.dim,
          in.x,
          c.router_jitter ? in.noise : nullptr,
          c.router_input_norm ? w.input_scale : nullptr,
          c.x_type,
          c.parameter_type,
          input_type(c),
          c.router_input_norm,
          c.router_input_norm_eps,
          1.0 / std::sqrt(static_cast<double>(c.dim))};
}

}  // namespace moeref::cuda
