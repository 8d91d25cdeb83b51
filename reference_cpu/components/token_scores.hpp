// One token on its way from logits to selection (SPEC 3.1): what is scored, ordered and weighed, and in which
// types.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// gate_precision where given, else x's type.
DType gate_compute_type(const CallOptions& options, DType x);

/// The type that score functions run in, which may differ from that of the logits.
DType score_compute_type(const CallOptions& options);

/// The type of S and of the routing weights when the score function is done.
DType scores_type(const MoEConfig& config, const CallOptions& options, DType x);

/// Whether the weights are made of scores plus the correction bias.
bool weighs_corrected(const MoEConfig& config);

struct TokenScores {
  std::vector<Real> logits;   ///< z [E] as it is scored: mapped where the config says so
  std::vector<Real> scores;   ///< what the score function gives
  std::vector<Real> choice;   ///< q, which the selection orders
  std::vector<Real> weighed;  ///< S before normalisation: what the weights are gathered from and the
                              ///< auxiliary loss sees
};

/// Token t of the logits [T, E]; `correction` c [E] where there is one.
TokenScores token_scores(const MoEConfig& config, const CallOptions& options,
                         const std::optional<std::vector<Real>>& correction, const Bounded& logits,
                         std::int64_t t);

/// The slope of a scored logit by the logit itself: logit_scale (1 - tanh^2), or logit_scale without a cap.
Real mapped_logit_slope(const MoEConfig& config, const CallOptions& options, Real logit);

}  // namespace moeref
