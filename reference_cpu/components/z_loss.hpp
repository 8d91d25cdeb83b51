// The router z-loss (SPEC 10): the mean over real tokens of logsumexp(z)^2.
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// z [T, E], the logits before logit_scale and logit_cap; mask[t] = real token. In float32 at least.
Real z_loss(const CallOptions& options, const Bounded& logits, const std::vector<bool>& mask);

/// d z_loss / d z_t = 2 logsumexp(z_t) softmax(z_t) / n [E] of a real token, times `scale`; n is the number
/// of real tokens.
std::vector<Real> z_loss_gradient(const CallOptions& options, const Bounded& logits, std::int64_t t, double n,
                                  Real scale);

}  // namespace moeref
