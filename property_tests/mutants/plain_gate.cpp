#include "property_tests/mutants/plain_gate.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

using Row = std::vector<double>;

double slope_of(ScoreFunc score, double s, double z) {
  if (score != ScoreFunc::sqrtsoftplus) return s * (1.0 - s);
  return s > 0.0 ? 1.0 / (1.0 + std::exp(-z)) / (2.0 * s) : 0.0;
}

Row softmax_gradient(const Row& s, const Row& d, bool keeps_sum) {
  double inner = 0.0;
  for (std::size_t i = 0; i < s.size() && keeps_sum; ++i) inner += s[i] * d[i];
  Row out;
  for (std::size_t i = 0; i < s.size(); ++i) out.push_back(s[i] * (d[i] - inner));
  return out;
}

/// Through v / (sum v + eps), or v / max(sum v, eps).
Row normalised_gradient(const MoEConfig& c, const Row& v, const Row& d, bool has_slope, bool holds) {
  double all = 0.0, through = 0.0;
  for (const double a : v) all += a;
  const double sum = divisor_of(c, all);
  const bool held = holds && c.norm_denominator == NormDenominator::max_of_sum_and_eps && all < c.norm_eps;
  for (std::size_t i = 0; i < v.size() && has_slope && !held; ++i) through -= d[i] * v[i] / sum / sum;
  Row out;
  for (const double a : d) out.push_back(a / sum + through);
  return out;
}

}  // namespace

NamedTensors plain_gate_gradients(const Call& call, const NamedTensors& results, const GateParts& parts) {
  const MoEConfig c = parse_moe_config(call.config);
  const CallOptions o = parse_call_options(call.options);
  const Matrix z = logits_of(call), s = scores_of(call), seen = weighed_scores_of(call);
  const Tensor &ids = results.at("outputs/indices"), &load = results.at("outputs/expert_load"),
               &dw = call.tensors.at("cotangents/weights");
  const bool softmax = c.score_func == ScoreFunc::softmax || c.score_func == ScoreFunc::softmax_with_bias;
  const bool after = c.score_func == ScoreFunc::softmax && !c.softmax_before_topk;
  const bool has_loss = o.training && c.aux_loss_coeff > 0.0;
  const std::int64_t k = c.n_activated_experts;
  double live = 0.0;
  for (std::int64_t t = 0; t < z.rows; ++t) live += is_live(call, t) ? 1.0 : 0.0;
  const double n = std::max(live, 1.0);
  Matrix dz{z.rows, z.cols, Row(z.values.size())};
  for (std::int64_t t = 0; t < z.rows; ++t) {
    const auto id = [&](std::int64_t j) { return static_cast<std::int64_t>(ids[t * k + j]); };
    Row chosen, d, all, scores;
    for (std::int64_t j = 0; j < k; ++j) {
      chosen.push_back((after ? z : seen).at(t, id(j)));
      const Tensor* scale = find(call.tensors, "params/per_expert_scale");
      d.push_back(dw[t * k + j] * c.route_scale * (scale ? (*scale)[id(j)] : 1.0));
    }
    for (std::int64_t e = 0; e < z.cols; ++e) {
      scores.push_back(s.at(t, e));
      all.push_back(seen.at(t, e));
    }
    Row weights = chosen;
    if (after) {
      const double most = *std::ranges::max_element(chosen);
      double sum = 0.0;
      for (double& w : weights) sum += w = std::exp(w - most);
      for (double& w : weights) w /= sum;
    }
    if (c.normalises_weights())
      d = normalised_gradient(c, weights, d, parts.normalisation_has_slope, parts.maximum_holds_slope);
    if (after) d = softmax_gradient(weights, d, parts.softmax_keeps_sum);
    Row d_scores(all.size()), d_logits(all.size());
    for (std::int64_t j = 0; j < k; ++j) {
      const auto e = static_cast<std::size_t>(id(j));
      double& to = (after ? d_logits : d_scores)[e];
      to = parts.slots_add || j + 1 == k ? to + d[static_cast<std::size_t>(j)] : 0.0;
    }
    if (has_loss) {
      Row loss;
      for (std::int64_t e = 0; e < z.cols; ++e)
        loss.push_back(is_live(call, t) ? c.aux_loss_coeff * o.aux_loss_backward_scale * load[e] *
                                              static_cast<double>(z.cols) / (static_cast<double>(k) * n) / n
                                        : 0.0);
      if (c.normalises_scores())
        loss =
            normalised_gradient(c, all, loss, parts.loss_normalisation_has_slope, parts.maximum_holds_slope);
      for (std::size_t e = 0; e < loss.size(); ++e) d_scores[e] += loss[e];
    }
    if (softmax) {
      d_scores = softmax_gradient(scores, d_scores, parts.softmax_keeps_sum);
    } else {
      const auto slope = parts.slope ? parts.slope : slope_of;
      for (std::size_t e = 0; e < d_scores.size(); ++e)
        d_scores[e] *= slope(c.score_func, scores[e], z.at(t, static_cast<std::int64_t>(e)));
    }
    for (std::int64_t e = 0; e < z.cols; ++e)
      dz.at(t, e) = (d_scores[static_cast<std::size_t>(e)] + d_logits[static_cast<std::size_t>(e)]) *
                    (parts.logit_map_has_slope ? logit_slope(c, z.at(t, e)) : 1.0);
  }
  const Matrix x = matrix_of(call.tensors.at("inputs/x")), w = matrix_of(call.tensors.at("params/weight"));
  Matrix dx{x.rows, x.cols, Row(x.values.size())}, d_weight{w.rows, w.cols, Row(w.values.size())};
  Row d_bias(static_cast<std::size_t>(w.rows));
  for (std::int64_t t = 0; t < z.rows; ++t)
    for (std::int64_t e = 0; e < z.cols; ++e) {
      const double d = dz.at(t, e);
      d_bias[static_cast<std::size_t>(e)] += d;
      for (std::int64_t i = 0; i < x.cols; ++i) {
        dx.at(t, i) += d * w.at(e, i);
        d_weight.at(e, i) += d * x.at(t, i);
      }
    }
  NamedTensors out;
  out["grads/x"] = Tensor::of({dx.rows, dx.cols}, std::span<const double>(dx.values));
  out["grads/weight"] = Tensor::of({w.rows, w.cols}, std::span<const double>(d_weight.values));
  out["grads/bias"] = Tensor::of({w.rows}, std::span<const double>(d_bias));
  return out;
}

NamedTensors with_gate_parts(Implementation& sound, const Call& call, const GateParts& parts) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || !call.backward || call.config.contains("router_input_norm") ||
      call.config.contains("router_jitter"))
    return out;
  add_difference(out, plain_gate_gradients(call, out, parts), plain_gate_gradients(call, out, {}),
                 {"grads/"});
  return out;
}

}  // namespace moeref
