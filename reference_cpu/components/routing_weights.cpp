#include "reference_cpu/components/routing_weights.hpp"

#include "reference_cpu/components/normalisation.hpp"
#include "reference_cpu/components/score.hpp"

namespace moeref {

std::vector<Real> gather(std::span<const Real> row, std::span<const std::int64_t> ids) {
  std::vector<Real> out;
  for (const std::int64_t id : ids) out.push_back(row[static_cast<std::size_t>(id)]);
  return out;
}

FilledSlots filled_slots(const MoEConfig& c, std::span<const std::int64_t> ids) {
  FilledSlots out;
  for (std::size_t j = 0; j < ids.size(); ++j) {
    if (ids[j] == c.null_id()) continue;
    out.place.push_back(static_cast<std::int64_t>(j));
    out.id.push_back(ids[j]);
  }
  return out;
}

bool scores_after_topk(const MoEConfig& c) {
  return facts(c.score_func).selects_by_logits && !c.softmax_before_topk;
}

std::vector<Real> selected_values(const MoEConfig& c, const CallOptions& o, const TokenScores& token,
                                  const FilledSlots& slots) {
  if (scores_after_topk(c))
    return score_rule(c.score_func).scores(gather(token.logits, slots.id), precision(score_compute_type(o)));
  return gather(token.weighed, slots.id);
}

std::vector<Real> routing_weights(const MoEConfig& c, std::span<const Real> values) {
  std::vector<Real> out =
      c.normalises_weights() ? normalise(c, values) : std::vector<Real>(values.begin(), values.end());
  for (Real& weight : out) weight = weight * c.route_scale;
  return out;
}

std::vector<Real> routing_weights_gradient(const MoEConfig& c, std::span<const Real> values,
                                           std::span<const Real> cotangent) {
  std::vector<Real> out;
  for (const Real d : cotangent) out.push_back(d * c.route_scale);
  if (!c.normalises_weights()) return out;
  const NormaliseGradient back = normalise_gradient(c, values, out);
  for (std::size_t j = 0; j < out.size(); ++j) out[j] = back.direct[j] + back.through_sum;
  return out;
}

}  // namespace moeref
