#include "reference_cpu/components/routing_weights.hpp"

#include "reference_cpu/components/normalisation.hpp"
#include "reference_cpu/components/score.hpp"

namespace moeref {
namespace {

/// Those of the slots that are kept.
std::vector<Real> taken(std::span<const Real> values, const FilledSlots& slots) {
  std::vector<Real> out;
  for (std::size_t j = 0; j < values.size(); ++j)
    if (slots.kept[j]) out.push_back(values[j]);
  return out;
}

}  // namespace

std::vector<Real> gather(std::span<const Real> row, std::span<const std::int64_t> ids) {
  std::vector<Real> out;
  for (const std::int64_t id : ids) out.push_back(row[static_cast<std::size_t>(id)]);
  return out;
}

FilledSlots filled_slots(const MoEConfig& c, const std::vector<std::int64_t>& ids,
                         const std::vector<std::int64_t>& dispatched, std::int64_t t) {
  FilledSlots out;
  for (std::int64_t j = 0; j < c.n_activated_experts; ++j) {
    const auto slot = static_cast<std::size_t>(t * c.n_activated_experts + j);
    if (ids[slot] == c.null_id()) continue;
    out.place.push_back(j);
    out.id.push_back(ids[slot]);
    out.kept.push_back(dispatched[slot] != c.null_id());
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

std::vector<Real> weights_before_dropping(const MoEConfig& c, std::span<const Real> values) {
  std::vector<Real> out = c.normalises_weights() && !c.divides_after_dropping()
                              ? normalise(c, values)
                              : std::vector<Real>(values.begin(), values.end());
  for (Real& weight : out) weight = weight * c.route_scale;
  return out;
}

std::vector<Real> routing_weights(const MoEConfig& c, std::span<const Real> values,
                                  const FilledSlots& slots) {
  std::vector<Real> out;
  if (c.divides_after_dropping()) {
    const std::vector<Real> divided = normalise(c, taken(values, slots));
    for (std::size_t j = 0, next = 0; j < values.size(); ++j)
      out.push_back(slots.kept[j] ? divided[next++] * c.route_scale : values[j]);
  } else {
    out = weights_before_dropping(c, values);
  }
  for (std::size_t j = 0; j < out.size(); ++j)
    if (!slots.kept[j]) out[j] = known(0.0, out[j].held);
  return out;
}

std::vector<Real> routing_weights_gradient(const MoEConfig& c, std::span<const Real> values,
                                           const FilledSlots& slots, std::span<const Real> cotangent) {
  std::vector<Real> out;
  for (std::size_t j = 0; j < values.size(); ++j)
    out.push_back(slots.kept[j] ? cotangent[j] * c.route_scale : known(0.0, cotangent[j].held));
  if (!c.normalises_weights()) return out;
  if (!c.divides_after_dropping()) {
    const NormaliseGradient back = normalise_gradient(c, values, out);
    for (std::size_t j = 0; j < out.size(); ++j) out[j] = back.direct[j] + back.through_sum;
    return out;
  }
  const NormaliseGradient back = normalise_gradient(c, taken(values, slots), taken(out, slots));
  for (std::size_t j = 0, next = 0; j < out.size(); ++j)
    if (slots.kept[j]) out[j] = back.direct[next++] + back.through_sum;
  return out;
}

}  // namespace moeref
