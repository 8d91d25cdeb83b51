// The formulas of the gate's score functions (SPEC 3.1), one row of a table each.
#pragma once

#include <span>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

/// The formulas of one score function. How experts are selected by it is said in moeref/score_func.hpp.
struct ScoreRule {
  ScoreFunc kind;
  /// S of one token from its logits, which are cast to `precision` first: gate_precision, or fp32 if there is
  /// none. A function with `always_float32` takes fp32 instead.
  std::vector<Real> (*scores)(std::span<const Real> logits, Precision precision);
  /// d loss / d logits from d loss / d S.
  std::vector<Real> (*gradient)(std::span<const Real> logits, std::span<const Real> scores,
                                std::span<const Real> cotangent);
};

const ScoreRule& score_rule(ScoreFunc kind);

/// exp(z_i - max z) / sum: rounding of the shift and of exp enter the exponent; the sum's error is a weighted
/// mean.
std::vector<Real> softmax(std::span<const Real> logits, Precision precision);
/// log sum_i exp(z_i), as the largest logit plus the logarithm of the sum above.
Real log_sum_exp(std::span<const Real> logits, Precision precision);
/// s_i (d_i - sum_j s_j d_j).
std::vector<Real> softmax_gradient(std::span<const Real> scores, std::span<const Real> cotangent);

/// exp(z_i - max z): orders experts as softmax does, without the error of the sum, which all of them have in
/// common.
std::vector<Real> unnormalised_softmax(std::span<const Real> logits, Precision precision);

}  // namespace moeref
