// The score functions of the gate: one entry of one table each (SPEC 3.1).
#pragma once

#include <span>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

/// The formulas of one score function; what selects experts of its scores is in moeref/score_func.hpp.
struct ScoreRule {
  ScoreFunc kind;
  /// S of one token from its logits, which are cast to `precision` first: gate_precision, fp32 if none is
  /// given. sqrtsoftplus runs in fp32 whatever it is.
  std::vector<Real> (*scores)(std::span<const Real> logits, Precision precision);
  /// d loss / d logits from d loss / d S.
  std::vector<Real> (*gradient)(std::span<const Real> logits, std::span<const Real> scores,
                                std::span<const Real> cotangent);
};

const ScoreRule& score_rule(ScoreFunc kind);

/// exp(z_i - max z) / sum: rounding of the shift and of exp enter the exponent; the sum's error is a weighted
/// mean.
std::vector<Real> softmax(std::span<const Real> logits, Precision precision);
/// s_i (d_i - sum_j s_j d_j).
std::vector<Real> softmax_gradient(std::span<const Real> scores, std::span<const Real> cotangent);

/// exp(z_i - max z): orders experts as softmax does, free of the error of the sum, which is common to all of
/// them.
std::vector<Real> unnormalised_softmax(std::span<const Real> logits, Precision precision);

}  // namespace moeref
