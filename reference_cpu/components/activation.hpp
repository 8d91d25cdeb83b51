// The expert activations: value and derivative, one row of a table each.
#pragma once

#include <cstdint>
#include <utility>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

struct ActivationParams {
  double alpha = 1.702;
  double limit = 0.0;  ///< of the config field that the activation's row names (ClampField)
  bool clamp_after = false;
  double situ_beta = 4.0, situ_linear_beta = 25.0;
};

struct Activation {
  ActivationKind kind;
  Real (*value)(Real gate, Real up, const ActivationParams&);
  /// (d/dgate, d/dup) times the cotangent; without a gate the first is zero.
  std::pair<Real, Real> (*gradient)(Real gate, Real up, Real cotangent, const ActivationParams&);

  constexpr bool gated() const { return facts(kind).gated; }
  /// The columns of h that hold gate i and up i; there are `width` of each.
  constexpr std::int64_t gate_column(std::int64_t i, std::int64_t) const {
    return facts(kind).interleaved ? 2 * i : i;
  }
  constexpr std::int64_t up_column(std::int64_t i, std::int64_t width) const {
    return !gated() ? i : facts(kind).interleaved ? 2 * i + 1 : width + i;
  }
};

/// SPEC 5: swiglu silu(g) u; with a limit L min(g, L), clamp(u, +-L) first, in fp32; swigluoai and
/// quick_geglu g sigmoid(alpha g) (u + 1) after clamps; geglu gelu_tanh(g) u; relu2 relu(u)^2.
/// SPEC 10: swiglu with clamp_after min(silu(g), L) clamp(u, +-L), in the type of h; geglu_erf gelu(g) u;
/// silu, gelu, gelu_tanh and relu of u alone; situ beta tanh(g / beta) sigmoid(g) lambda tanh(u / lambda), in
/// fp32 and stored in the type of h.
const Activation& activation(ActivationKind kind);

ActivationParams activation_params(const MoEConfig& config);
ActivationParams activation_params(const MLPConfig& config);

}  // namespace moeref
