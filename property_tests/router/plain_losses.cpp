#include "property_tests/router/plain_losses.hpp"

#include <algorithm>
#include <set>

namespace moeref {

double real_tokens(const Call& call, std::int64_t first, std::int64_t last) {
  double n = 0.0;
  for (std::int64_t t = first; t < last; ++t) n += is_real(call, t) ? 1.0 : 0.0;
  return std::max(n, 1.0);
}

std::vector<double> plain_load(const Call& call, const Tensor& ids, std::int64_t first, std::int64_t last) {
  std::vector<double> load(call.config.at("n_routed_experts").get<std::size_t>());
  for (std::int64_t t = first; t < last; ++t) {
    std::set<std::int64_t> experts;
    for (std::int64_t j = 0; j < ids.extent(1); ++j)
      experts.insert(static_cast<std::int64_t>(ids[t * ids.extent(1) + j]));
    for (const std::int64_t e : experts)
      if (e >= 0 && is_real(call, t)) load[static_cast<std::size_t>(e)] += 1.0;
  }
  return load;
}

LossScope configured_scope(const Call& call) {
  const MoEConfig c = parse_moe_config(call.config);
  return {c.aux_loss_sequences, c.aux_loss_accumulated};
}

std::vector<double> plain_factors(const Call& call, const Tensor& ids, std::int64_t first, std::int64_t last,
                                  LossScope scope) {
  const MoEConfig c = parse_moe_config(call.config);
  const bool first_alone = c.aux_loss_counts == AuxLossCounts::first_choice;
  const double k = first_alone ? 1.0 : static_cast<double>(c.n_activated_experts);
  const Tensor* before = scope.earlier ? &call.tensors.at("inputs/accumulated_expert_load") : nullptr;
  double tokens = real_tokens(call, first, last);
  for (std::int64_t e = 0; before && e < before->size(); ++e) tokens += (*before)[e] / k;
  std::vector<double> f =
      plain_load(call, first_alone ? take(ids, 1, std::vector<std::int64_t>{0}) : ids, first, last);
  for (std::size_t e = 0; e < f.size(); ++e) {
    if (before) f[e] += (*before)[static_cast<std::int64_t>(e)];
    f[e] *= static_cast<double>(c.n_routed_experts) / tokens;
    if (c.aux_loss_factor != AuxLossFactor::experts) f[e] /= k;
  }
  return f;
}

Matrix loss_scores_of(const Call& call) {
  Matrix scores = weighed_scores_of(call);
  const MoEConfig c = parse_moe_config(call.config);
  for (std::int64_t t = 0; c.normalises_scores() && t < scores.rows; ++t) {
    double sum = 0.0;
    for (std::int64_t e = 0; e < scores.cols; ++e) sum += scores.at(t, e);
    for (std::int64_t e = 0; e < scores.cols; ++e) scores.at(t, e) /= divisor_of(c, sum);
  }
  return scores;
}

double plain_loss(const Call& call, const Matrix& scores, const Tensor& ids, LossScope scope) {
  const std::int64_t length = scores.rows / scope.sequences;
  double mean = 0.0;
  for (std::int64_t s = 0; s < scope.sequences; ++s) {
    const std::int64_t first = s * length, last = first + length;
    const std::vector<double> f = plain_factors(call, ids, first, last, scope);
    double loss = 0.0;
    for (std::int64_t e = 0; e < scores.cols; ++e)
      for (std::int64_t t = first; t < last; ++t)
        if (is_real(call, t)) loss += f[static_cast<std::size_t>(e)] * scores.at(t, e);
    mean += loss / real_tokens(call, first, last) / static_cast<double>(scope.sequences);
  }
  return mean;
}

}  // namespace moeref
