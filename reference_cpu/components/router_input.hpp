// What the gate multiplies by its weight: tokens as they are, times noise, or normalised (SPEC 10).
#pragma once

#include <optional>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/components/rms_norm.hpp"

namespace moeref {

/// x times noise, both [T, D], in x's type; of a cotangent the way back too.
Bounded jittered(const Bounded& x, const Bounded& noise);
/// What the gate sees of x before any norm: x itself, or with noise the product, which `held` keeps.
const Bounded& seen_tokens(const Bounded& x, const std::optional<Bounded>& noise, Bounded& held);

/// x / sqrt(mean x^2 + eps) in float32, stored in x's type, times scale [1, D] and D^-1/2; in `compute`. x
/// [T, D] itself without router_input_norm, where `scale` is not looked at.
Bounded router_input(const MoEConfig& config, const Bounded& x, const Bounded& scale, DType compute);

/// The gradients of x and, row by row, of scale from d [T, D], the cotangent of a normalised input.
RMSNormBackward router_input_backward(const MoEConfig& config, const Bounded& x, const Bounded& scale,
                                      const Bounded& d);

}  // namespace moeref
