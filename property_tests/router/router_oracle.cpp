#include "property_tests/router/router_oracle.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "reference_cpu/call/enumerators.hpp"
#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

MoEConfig config_of(const Call& call) { return parse_moe_config(call.config); }

double logistic(double z) {
  return z >= 0.0 ? 1.0 / (1.0 + std::exp(-z)) : std::exp(z) / (1.0 + std::exp(z));
}

double sqrtsoftplus(double z) {
  return std::sqrt(z > 0.0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z)));
}

/// A score from its own logit; null for a softmax, which takes all of the token's logits.
struct ScoreFormula {
  ScoreFunc kind;
  double (*score)(double logit);
};
constexpr auto kScoreFormulas = std::to_array<ScoreFormula>({
    {ScoreFunc::softmax, nullptr},
    {ScoreFunc::sigmoid, logistic},
    {ScoreFunc::sigmoid_with_bias, logistic},
    {ScoreFunc::softmax_with_bias, nullptr},
    {ScoreFunc::sqrtsoftplus, sqrtsoftplus},
});
static_assert(has_row_per_enumerator<kScoreFormulas>());

double mapped_logit(const MoEConfig& c, double z) {
  return c.logit_cap > 0.0 ? c.logit_cap * std::tanh(c.logit_scale * z / c.logit_cap) : c.logit_scale * z;
}

void add_correction(const Call& call, Matrix& m) {
  const Tensor* correction = find(call.tensors, "params/e_score_correction_bias");
  if (!correction) return;
  for (std::int64_t t = 0; t < m.rows; ++t)
    for (std::int64_t e = 0; e < m.cols; ++e) m.at(t, e) += (*correction)[e];
}

void discard_groups(const MoEConfig& c, bool biased, Matrix& q, std::int64_t token) {
  const std::int64_t size = c.n_routed_experts / c.n_expert_groups;
  std::size_t summed = facts(c.score_func).groups == GroupRule::max_or_top2 && !biased ? 1 : 2;
  if (c.group_score == GroupScore::largest) summed = 1;
  if (c.group_score == GroupScore::top2_sum) summed = 2;
  if (c.group_score == GroupScore::topk_over_g_sum)
    summed = static_cast<std::size_t>(c.n_activated_experts / c.n_limited_groups);
  Matrix groups{1, c.n_expert_groups, std::vector<double>(static_cast<std::size_t>(c.n_expert_groups))};
  for (std::int64_t g = 0; g < groups.cols; ++g) {
    std::vector<double> members;
    for (std::int64_t e = g * size; e < (g + 1) * size; ++e) members.push_back(q.at(token, e));
    std::ranges::sort(members, std::greater<>());
    for (std::size_t i = 0; i < summed; ++i) groups.at(0, g) += members.at(i);
  }
  const std::vector<std::int64_t> kept = largest(groups, 0, c.n_limited_groups);
  for (std::int64_t e = 0; e < q.cols; ++e)
    if (std::ranges::find(kept, e / size) == kept.end())
      q.at(token, e) = c.discards_to_zero() ? 0.0 : -INFINITY;
}

}  // namespace

Matrix matrix_of(const Tensor& tensor) {
  const std::int64_t cols = tensor.shape().back();
  return {cols > 0 ? tensor.size() / cols : 0, cols, tensor.doubles()};
}

Matrix router_input_of(const Call& call) {
  Matrix x = matrix_of(require(call.tensors, "inputs/x"));
  const MoEConfig c = config_of(call);
  if (const Tensor* noise = find(call.tensors, "inputs/router_noise"))
    for (std::size_t i = 0; i < x.values.size(); ++i) x.values[i] *= (*noise)[static_cast<std::int64_t>(i)];
  if (!c.router_input_norm) return x;
  const Tensor& scale = require(call.tensors, "params/input_scale");
  const auto width = static_cast<double>(x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    double squares = 0.0;
    for (std::int64_t i = 0; i < x.cols; ++i) squares += x.at(t, i) * x.at(t, i);
    const double norm = std::sqrt((squares / width + c.router_input_norm_eps) * width);
    for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) *= scale[i] / norm;
  }
  return x;
}

Matrix logits_of(const Call& call) {
  const Matrix x = router_input_of(call), w = matrix_of(require(call.tensors, "params/weight"));
  const Tensor* bias = find(call.tensors, "params/bias");
  const MoEConfig c = config_of(call);
  Matrix z{x.rows, w.rows, std::vector<double>(static_cast<std::size_t>(x.rows * w.rows))};
  for (std::int64_t t = 0; t < z.rows; ++t)
    for (std::int64_t e = 0; e < z.cols; ++e) {
      double sum = bias ? (*bias)[e] : 0.0;
      for (std::int64_t i = 0; i < x.cols; ++i) sum += x.at(t, i) * w.at(e, i);
      z.at(t, e) = mapped_logit(c, sum);
    }
  return z;
}

Matrix scores_of(const Call& call) {
  const auto score = kScoreFormulas[static_cast<std::size_t>(config_of(call).score_func)].score;
  Matrix s = logits_of(call);
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double top = -INFINITY, sum = 0.0;
    for (std::int64_t e = 0; e < s.cols; ++e) top = std::max(top, s.at(t, e));
    for (std::int64_t e = 0; e < s.cols; ++e) {
      double& value = s.at(t, e);
      value = score ? score(value) : std::exp(value - top);
      sum += value;
    }
    for (std::int64_t e = 0; !score && e < s.cols; ++e) s.at(t, e) /= sum;
  }
  return s;
}

Matrix weighed_scores_of(const Call& call) {
  const MoEConfig c = config_of(call);
  Matrix s = scores_of(call);
  if (facts(c.score_func).weighs_corrected && c.router_weight_uses_score_correction_bias)
    add_correction(call, s);
  return s;
}

Matrix choices_of(const Call& call) {
  const MoEConfig c = config_of(call);
  if (facts(c.score_func).selects_by_logits) return logits_of(call);
  Matrix q = c.selection_scores == SelectionScores::logits ? logits_of(call) : scores_of(call);
  add_correction(call, q);
  if (c.grouped())
    for (std::int64_t t = 0; t < q.rows; ++t) discard_groups(c, c.has_correction_bias(), q, t);
  return q;
}

Matrix balanced_choices_of(const Call& call, int rounds) {
  const MoEConfig c = config_of(call);
  const ParallelOptions ranks = parse_call_options(call.options).parallel;
  Matrix q = logits_of(call);
  for (double& z : q.values) z = std::exp(z);
  const auto offsets = rank_offsets(ranks.size(), ranks.tokens_per_rank, q.rows);
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
    const std::int64_t first = offsets[r], last = offsets[r + 1];
    const auto n = static_cast<double>(last - first), experts = static_cast<double>(q.cols);
    std::vector<double> by_expert(static_cast<std::size_t>(q.cols), 1.0),
        by_token(static_cast<std::size_t>(q.rows));
    double change = INFINITY;
    for (int round = 0; round < rounds && change > c.sinkhorn_tolerance; ++round) {
      for (std::int64_t t = first; t < last; ++t) {
        double sum = 1e-8;
        for (std::int64_t e = 0; e < q.cols; ++e) sum += by_expert[static_cast<std::size_t>(e)] * q.at(t, e);
        by_token[static_cast<std::size_t>(t)] = 1.0 / n / sum;
      }
      change = 0.0;
      for (std::int64_t e = 0; e < q.cols; ++e) {
        double sum = 1e-8;
        for (std::int64_t t = first; t < last; ++t) sum += by_token[static_cast<std::size_t>(t)] * q.at(t, e);
        double& factor = by_expert[static_cast<std::size_t>(e)];
        change += std::abs(factor - 1.0 / experts / sum) / experts;
        factor = 1.0 / experts / sum;
      }
    }
    for (std::int64_t t = first; t < last; ++t)
      for (std::int64_t e = 0; e < q.cols; ++e)
        q.at(t, e) *= by_expert[static_cast<std::size_t>(e)] * by_token[static_cast<std::size_t>(t)];
  }
  return q;
}

std::vector<std::int64_t> largest(const Matrix& m, std::int64_t row, std::int64_t k) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(m.cols));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order,
                           [&](std::int64_t a, std::int64_t b) { return m.at(row, a) > m.at(row, b); });
  order.resize(static_cast<std::size_t>(k));
  std::ranges::sort(order);
  return order;
}

std::vector<double> weights_of(const Call& call, const Matrix& weighed, std::int64_t token,
                               const std::vector<std::int64_t>& ids) {
  const MoEConfig c = config_of(call);
  const bool after = facts(c.score_func).selects_by_logits && !c.softmax_before_topk;
  std::vector<double> w;
  double sum = 0.0;
  for (const std::int64_t id : ids) sum += w.emplace_back(weighed.at(token, id));
  // A softmax over the selected sums to 1 before it is normalised.
  if (after)
    for (double& value : w) value /= sum;
  const double divisor = c.normalises_weights() ? divisor_of(c, after ? 1.0 : sum) : 1.0;
  for (double& value : w) value *= c.route_scale / divisor;
  if (const Tensor* scale = find(call.tensors, "params/per_expert_scale"))
    for (std::size_t j = 0; j < w.size(); ++j) w[j] *= (*scale)[ids[j]];
  return w;
}

Call in_dtype(Call call, DType dtype) {
  call.config["dtype"] = name(dtype);
  call.config.erase("gate_dtype");
  for (auto& [name, tensor] : call.tensors)
    if (is_floating(tensor.dtype()) && !name.ends_with("e_score_correction_bias"))
      tensor = tensor.cast(dtype);
  return call;
}

bool is_real(const Call& call, std::int64_t token) {
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  return !mask || (*mask)[token] != 0.0;
}

void arrange_plain(Descriptor& d) {
  d.correction = Correction::none;
  d.factor = 0.0;
  d.groups = d.limited = 1;
}

std::vector<std::int64_t> ids_of(const Answer& answer, std::int64_t token) {
  const Tensor& ids = answer["outputs/indices"];
  std::vector<std::int64_t> out;
  for (std::int64_t j = 0; j < ids.extent(1); ++j)
    out.push_back(static_cast<std::int64_t>(ids[token * ids.extent(1) + j]));
  return out;
}

bool expect_selected(const Answer& answer, std::int64_t token, const std::vector<std::int64_t>& expected,
                     std::string_view text) {
  if (!answer.decided(token)) return false;
  const std::vector<Slot> slots = slots_of(answer, token);
  for (std::size_t j = 0; j < slots.size(); ++j)
    expect_equal("outputs/indices", slots[j].index, static_cast<double>(slots[j].expert),
                 static_cast<double>(expected.at(j)), text);
  return true;
}

Call with_config(Call call, const nlohmann::json& fields) {
  call.config.update(fields);
  return call;
}

bool takes_correction(ScoreFunc score) { return !facts(score).selects_by_logits; }

double logit_slope(const MoEConfig& c, double mapped) {
  const double t = c.logit_cap > 0.0 ? mapped / c.logit_cap : 0.0;
  return c.logit_scale * (1.0 - t * t);
}

void expect_weights(const Answer& a, std::string_view text) {
  const Matrix weighed = weighed_scores_of(a.call());
  for (std::int64_t t = 0; t < a.tokens(); ++t) {
    const std::vector<double> want = weights_of(a.call(), weighed, t, ids_of(a, t));
    for (std::size_t j = 0; j < want.size(); ++j) {
      const std::int64_t i = t * a.slots() + static_cast<std::int64_t>(j);
      // The formula here is itself computed in double.
      const double own = 1e-11 * std::abs(want[j]);
      expect_near("outputs/weights", i, a.at("outputs/weights", i), want[j],
                  a.bound("outputs/weights", i) + own, text);
    }
  }
}

void expect_gradient_of_x(const Answer& a, const Descriptor& d, std::string_view text) {
  const Call& call = a.call();
  if (!call.backward) return;
  const MoEConfig c = config_of(call);
  const Matrix z = logits_of(call), s = scores_of(call), w = matrix_of(call.tensors.at("params/weight"));
  const Tensor& dw = call.tensors.at("cotangents/weights");
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::vector<double> dz(static_cast<std::size_t>(d.E));
    double through_sum = 0.0;
    for (std::int64_t j = 0; j < d.k; ++j) {
      const auto e = static_cast<std::int64_t>(a.at("outputs/indices", t * d.k + j));
      const double ds = dw[t * d.k + j] * d.scale, value = s.at(t, e);
      dz[static_cast<std::size_t>(e)] += ds * value * (d.score == ScoreFunc::sigmoid ? 1.0 - value : 1.0);
      through_sum += ds * value;
    }
    for (std::int64_t e = 0; e < d.E; ++e) {
      double& own = dz[static_cast<std::size_t>(e)];
      if (d.score == ScoreFunc::softmax) own -= s.at(t, e) * through_sum;
      own *= logit_slope(c, z.at(t, e));
    }
    for (std::int64_t column = 0; column < d.D; ++column) {
      double want = 0.0, size = 0.0;
      for (std::int64_t e = 0; e < d.E; ++e) {
        const double term = dz[static_cast<std::size_t>(e)] * w.at(e, column);
        want += term;
        size += std::abs(term);
      }
      const std::int64_t i = t * d.D + column;
      expect_near("grads/x", i, a.at("grads/x", i), want, a.bound("grads/x", i) + 1e-11 * size, text);
    }
  }
}

double divisor_of(const MoEConfig& c, double sum) {
  return c.norm_denominator == NormDenominator::max_of_sum_and_eps ? std::max(sum, c.norm_eps)
                                                                   : sum + c.norm_eps;
}

}  // namespace moeref
