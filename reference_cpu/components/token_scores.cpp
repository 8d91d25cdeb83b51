#include "reference_cpu/components/token_scores.hpp"

#include "reference_cpu/components/score.hpp"

namespace moeref {
namespace {

/// cap tanh(scale z / cap) in the type of the score function, or scale z without a cap (SPEC 10).
Real mapped_logit(const MoEConfig& c, const CallOptions& o, Real z) {
  const Real scaled = store(z, precision(score_compute_type(o))) * c.logit_scale;
  return c.logit_cap > 0.0 ? tanh(scaled / c.logit_cap) * c.logit_cap : scaled;
}

}  // namespace

DType gate_compute_type(const CallOptions& options, DType x) { return options.gate_precision.value_or(x); }

DType score_compute_type(const CallOptions& o) { return o.gate_precision.value_or(DType::float32); }

bool weighs_corrected(const MoEConfig& c) {
  return facts(c.score_func).weighs_corrected && c.router_weight_uses_score_correction_bias &&
         c.has_correction_bias();
}

DType scores_type(const MoEConfig& c, const CallOptions& o, DType x) {
  if (o.gate_precision && !c.router_weights_fp32) return x;
  if (facts(c.score_func).always_float32) return DType::float32;
  return weighs_corrected(c) ? promote(score_compute_type(o), DType::float32) : score_compute_type(o);
}

TokenScores token_scores(const MoEConfig& c, const CallOptions& o,
                         const std::optional<std::vector<Real>>& correction, const Bounded& logits,
                         std::int64_t t) {
  const ScoreRule& rule = score_rule(c.score_func);
  const Precision score_precision = precision(score_compute_type(o));
  TokenScores token;
  for (std::int64_t i = 0; i < logits.cols; ++i)
    token.logits.push_back(c.maps_logits() ? mapped_logit(c, o, logits.at(t, i)) : logits.at(t, i));
  token.scores = rule.scores(token.logits, score_precision);
  token.weighed = token.scores;
  if (facts(c.score_func).selects_by_logits) {
    token.choice = c.softmax_before_topk ? unnormalised_softmax(token.logits, score_precision) : token.logits;
    return token;
  }
  token.choice = c.selects_logits() ? token.logits : token.scores;
  if (correction)
    for (std::size_t i = 0; i < token.choice.size(); ++i)
      token.choice[i] = token.choice[i] + (*correction)[i];
  if (weighs_corrected(c)) token.weighed = token.choice;
  return token;
}

Real mapped_logit_slope(const MoEConfig& c, const CallOptions& o, Real z) {
  const Precision held = precision(score_compute_type(o));
  if (c.logit_cap == 0.0) return constant(c.logit_scale, held);
  const Real t = tanh(store(z, held) * c.logit_scale / c.logit_cap);
  return (1.0 - t * t) * c.logit_scale;
}

}  // namespace moeref
