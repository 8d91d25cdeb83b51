// Rules of the gate that the documented system does not have (SPEC 10): the formulas on calls in which the
// rule decides.
#include <algorithm>
#include <cmath>
#include <vector>

#include "moeref/reference.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Scores of which two or more are divided, beside an eps of their own size.
void arrange_denominator(Descriptor& d) {
  d.norm = true;
  d.biased_weights = false;
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::max<std::int64_t>(d.k, 2);
  if (d.limited * (d.E / d.groups) < 2) d.groups = d.limited = 1;
  d.before_topk = true;
  if (d.seed % 2 == 0) {
    d.config.norm_denominator = NormDenominator::max_of_sum_and_eps;
    d.config.norm_eps = 0.25;
    if (d.score == ScoreFunc::softmax || d.score == ScoreFunc::softmax_with_bias)
      d.score = ScoreFunc::sigmoid;
    d.logits = d.seed % 4 == 0 ? Logits::levels : Logits::negative;  // sums above it, or all below it
  } else {
    d.config.norm_denominator = NormDenominator::sum_plus_eps;
    d.config.norm_eps = 0.125;
  }
}

void denominator_rule(Implementation& impl, const Descriptor& d) {
  expect_weights(Answer(impl, make_call(d)), "weights are divided by sum + norm_eps, or max(sum, norm_eps)");
}

void arrange_top1(Descriptor& d) {
  d.norm = d.before_topk = true;
  d.biased_weights = false;
  d.k = 1;
  d.limited = 1;
  if (d.aux == 0.0) d.aux = 0.5;
  d.eval = false;
  if (d.config.norm_at_top1 == Top1Norm::none)
    d.config.norm_at_top1 = d.seed % 2 == 0 ? Top1Norm::scores : Top1Norm::weights_and_scores;
}

/// With scores of which one is divided by itself.
void top1_rule(Implementation& impl, const Descriptor& d) {
  expect_weights(Answer(impl, make_call(d)),
                 "with k = 1 weights are divided under norm_at_top1 weights_and_scores alone");
}

void arrange_group_rule(Descriptor& d) {
  if (facts(d.score).selects_by_logits) d.score = ScoreFunc::softmax_with_bias;
  d.groups = std::max<std::int64_t>(d.groups, 2);
  if (d.E / d.groups < 3) d.E = 3 * d.groups;
  d.limited = std::min(d.limited, d.groups - 1);
  if (d.seed % 4 == 3) {  // a k that g does not divide
    d.config.group_score = GroupScore::topk_over_g_sum;
    d.groups = std::max<std::int64_t>(d.groups, 3);
    d.limited = 2;
    d.k = 3;
    if (d.E / d.groups < 3 || d.E % d.groups != 0) d.E = 3 * d.groups;
  }
  if (d.config.group_score == GroupScore::by_score_func)
    d.config.group_score = d.seed % 3 == 0   ? GroupScore::largest
                           : d.seed % 3 == 1 ? GroupScore::top2_sum
                                             : GroupScore::topk_over_g_sum;
  if (d.config.discarded_groups == DiscardedGroups::by_score_func)
    d.config.discarded_groups = d.seed % 2 == 0 ? DiscardedGroups::zero : DiscardedGroups::minus_infinity;
  if (d.seed % 2 == 1) d.correction = Correction::negative;  // where 0 and minus infinity differ
  if (d.logits != Logits::levels && d.logits != Logits::skewed) d.logits = Logits::levels;
}

void group_rule(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Matrix q = choices_of(call);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    compared += expect_selected(a, t, largest(q, t, d.k),
                                "groups are scored and discarded as group_score and discarded_groups say");
  require_some(compared, d.T);
}

void arrange_selection(Descriptor& d) {
  d.config.selection_scores = SelectionScores::logits;
  if (facts(d.score).selects_by_logits) d.score = ScoreFunc::sigmoid;
  d.biased_weights = false;
  if (d.correction == Correction::none || d.correction == Correction::zero) d.correction = Correction::normal;
  d.E = std::max<std::int64_t>(d.E, 4);
  d.groups = d.limited = 1;
  d.k = std::min(d.k, d.E / 2);
  if (d.logits != Logits::rough) d.logits = Logits::levels;
}

/// Every token has the experts of its k largest `q`, and weights are scores.
void expect_choices(const Descriptor& d, const Answer& a, const Matrix& q, const char* selected_by,
                    const char* weighed_by) {
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) compared += expect_selected(a, t, largest(q, t, d.k), selected_by);
  require_some(compared, d.T);
  expect_weights(a, weighed_by);
}

/// The order of z + c, which is not that of S + c; weights are scores.
void selection_rule(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  expect_choices(d, Answer(impl, call), choices_of(call), "logits and the correction bias are selected by",
                 "weights are scores without the correction bias");
}

void arrange_always_selected(Descriptor& d) {
  arrange_plain(d);
  if (d.seed % 2 == 0) d.correction = Correction::normal;
  if (d.config.n_always_selected == 0) d.config.n_always_selected = 1 + static_cast<std::int64_t>(d.seed % 2);
  d.config.n_identity_experts = 0;
  d.biased_weights = false;
  d.norm = d.before_topk = true;
  const std::int64_t most = d.config.n_always_selected + 1;
  d.E = std::max<std::int64_t>(d.E, most + 2);
  d.k = std::max(d.k, most);
  if (d.logits != Logits::rough) d.logits = Logits::levels;
}

/// The last experts, the best of the others, and one sum for all of their scores.
void always_selected(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Matrix q = choices_of(call);
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t e = d.E - d.config.n_always_selected; e < d.E; ++e) q.at(t, e) = INFINITY;
  expect_choices(d, Answer(impl, call), q, "every token has the last n_always_selected experts",
                 "experts that every token has are in the sum that divides weights");
}

void arrange_sinkhorn(Descriptor& d) {
  arrange_plain(d);
  d.config.selection_scores = SelectionScores::sinkhorn;
  d.config.n_always_selected = 0;
  d.precision = DType::float32;
  d.eval = d.biased_weights = false;
  d.E = std::clamp<std::int64_t>(d.E, 3, 8);
  d.k = std::min<std::int64_t>(d.k, 2);
  d.T = std::clamp<std::int64_t>(d.T, 6, 24);
  if (d.logits != Logits::rough) d.logits = d.seed % 2 == 0 ? Logits::skewed : Logits::levels;
}

/// The last experts' and tokens' factors of exp(z), in double, of each rank's tokens.
void sinkhorn_selection(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  expect_choices(d, Answer(impl, call), balanced_choices_of(call), "balanced logits are selected by",
                 "weights are scores that are not balanced");
}

void arrange_router_input(Descriptor& d) {
  arrange_plain(d);
  d.config.router_input_norm = true;
  d.config.router_input_norm_eps = d.seed % 2 == 0 ? 1e-6 : 0.125;
  d.config.per_expert_scale = false;
  d.score = d.seed % 4 < 2 ? ScoreFunc::sigmoid : ScoreFunc::softmax;
  d.before_topk = true;
  d.norm = d.biased_weights = d.frozen = false;
  d.aux = 0.0;
  d.config.z_loss_coeff = 0.0;
  d.logits = Logits::rough;
  d.values = Values::rough;
  d.poison = NonFinite::none;
  d.D = std::max<std::int64_t>(d.D, 2);
}

/// The documented gate in double, on the tokens that a convention makes of x, with the choices of `a`.
Evaluation plain_gate(const Call& call, const Answer& a) {
  Call out = call;
  for (const char* field : {"router_input_norm", "router_input_norm_eps", "router_jitter"})
    out.config.erase(field);
  const Matrix seen = router_input_of(call);
  for (const char* tensor : {"params/input_scale", "inputs/router_noise"}) out.tensors.erase(tensor);
  out = in_dtype(std::move(out), DType::float64);
  out.options["gate_precision"] = "float64";
  out.tensors["inputs/replay_indices"] = a["outputs/indices"];
  Tensor& given = out.tensors.at("inputs/x");
  for (std::int64_t i = 0; i < given.size(); ++i) given.set(i, seen.values[static_cast<std::size_t>(i)]);
  return evaluate(out);
}

/// Weights by the formula on normalised tokens; and gradients: those of the same gate on the tokens as they
/// are normalised, through the norm.
void router_input(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const MoEConfig c = parse_moe_config(call.config);
  const Answer a(impl, call);
  expect_weights(a, "the gate sees tokens over their root mean square, times the scale");
  if (!call.backward) return;
  const Matrix normed = router_input_of(call);
  const Tensor x = call.tensors.at("inputs/x"), scale = call.tensors.at("params/input_scale");
  const Evaluation plain = plain_gate(call, a);
  const std::vector<double>& back = plain.results.at("grads/x").value;
  std::vector<double> by_scale(static_cast<std::size_t>(d.D)), size(by_scale);
  for (std::int64_t t = 0; t < d.T; ++t) {
    double squares = 0.0, inner = 0.0, magnitude = 0.0;
    const auto at = [&](std::int64_t i) { return static_cast<std::size_t>(t * d.D + i); };
    for (std::int64_t i = 0; i < d.D; ++i) {
      const double term = back[at(i)] * scale[i] * x[t * d.D + i];
      squares += x[t * d.D + i] * x[t * d.D + i];
      inner += term;
      magnitude += std::abs(term);
      if (scale[i] == 0.0) continue;
      by_scale[static_cast<std::size_t>(i)] += back[at(i)] * normed.values[at(i)] / scale[i];
      size[static_cast<std::size_t>(i)] += std::abs(back[at(i)] * normed.values[at(i)] / scale[i]);
    }
    const auto width = static_cast<double>(d.D);
    const double mean = squares / width + c.router_input_norm_eps, norm = std::sqrt(mean * width);
    for (std::int64_t i = 0; i < d.D; ++i) {
      const double own = x[t * d.D + i] / (mean * width);
      const double want = (back[at(i)] * scale[i] - own * inner) / norm;
      expect_near(
          "grads/x", t * d.D + i, a.at("grads/x", t * d.D + i), want,
          a.bound("grads/x", t * d.D + i) + 1e-11 * (std::abs(own) * magnitude / norm + std::abs(want)),
          "the gradient passes the norm and its scale");
    }
  }
  for (std::int64_t i = 0; i < d.D; ++i)
    if (scale[i] != 0.0)
      expect_near("grads/input_scale", i, a.at("grads/input_scale", i), by_scale[static_cast<std::size_t>(i)],
                  a.bound("grads/input_scale", i) + 1e-11 * size[static_cast<std::size_t>(i)],
                  "the scale's gradient is that of the gate's input times the normalised token");
}

void arrange_router_jitter(Descriptor& d) {
  arrange_router_input(d);
  d.config.router_input_norm = false;
  d.config.router_jitter = true;
}

/// The gate on x times noise; the gradient of x has the noise once more, and the weight's is that of what the
/// gate saw.
void router_jitter(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  expect_weights(a, "the gate sees tokens times the noise");
  if (!call.backward) return;
  const Evaluation plain = plain_gate(call, a);
  const Tensor& noise = call.tensors.at("inputs/router_noise");
  const auto expect_all = [&](const char* name, const auto& factor, const char* what) {
    const std::vector<double>& want = plain.results.at(name).value;
    for (std::int64_t i = 0; i < std::ssize(want); ++i) {
      const double value = want[static_cast<std::size_t>(i)] * factor(i);
      expect_near(name, i, a.at(name, i), value, a.bound(name, i) + 1e-11 * std::abs(value), what);
    }
  };
  expect_all(
      "grads/x", [&](std::int64_t i) { return noise[i]; }, "the gradient of x has the noise too");
  expect_all(
      "grads/weight", [](std::int64_t) { return 1.0; }, "the gate's weight has seen the noise");
}

void arrange_expert_scale(Descriptor& d) {
  d.config.per_expert_scale = true;
  d.biased_weights = d.frozen = false;
  d.E = std::max<std::int64_t>(d.E, 2);
  d.values = Values::rough;
}

/// The factors multiply the weights, and have dw times the weights without them as gradient.
void expert_scale(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  expect_weights(a, "a factor per expert multiplies its weights");
  if (!call.backward) return;
  Call without = call;
  without.config.erase("per_expert_scale");
  without.tensors.erase("params/per_expert_scale");
  const Matrix weighed = weighed_scores_of(without);
  const Tensor& dw = call.tensors.at("cotangents/weights");
  std::vector<double> want(static_cast<std::size_t>(d.E)), size(want.size());
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<std::int64_t> ids = ids_of(a, t);
    const std::vector<double> w = weights_of(without, weighed, t, ids);
    for (std::size_t j = 0; j < ids.size(); ++j) {
      const double term = dw[t * d.k + static_cast<std::int64_t>(j)] * w[j];
      want[static_cast<std::size_t>(ids[j])] += term;
      size[static_cast<std::size_t>(ids[j])] += std::abs(term);
    }
  }
  for (std::int64_t e = 0; e < d.E; ++e) {
    const auto i = static_cast<std::size_t>(e);
    expect_near("grads/per_expert_scale", e, a.at("grads/per_expert_scale", e), want[i],
                a.bound("grads/per_expert_scale", e) + 1e-11 * size[i],
                "the sum of dw w over an expert's slots");
  }
}

void arrange_z_loss(Descriptor& d) {
  if (d.config.z_loss_coeff == 0.0) d.config.z_loss_coeff = 0.5;
  d.config.logit_scale = 1.0;
  d.config.logit_cap = 0.0;
  d.eval = d.biased_weights = false;
  d.aux = 0.0;
  d.ranks = 1;
}

/// The formula, and that its gradient is the difference which the coefficient makes.
void z_loss(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  const Matrix z = logits_of(call), w = matrix_of(call.tensors.at("params/weight"));
  double sum = 0.0, n = 0.0;
  std::vector<double> lse;
  for (std::int64_t t = 0; t < d.T; ++t) {
    double most = z.at(t, 0), total = 0.0;
    for (std::int64_t e = 0; e < d.E; ++e) most = std::max(most, z.at(t, e));
    for (std::int64_t e = 0; e < d.E; ++e) total += std::exp(z.at(t, e) - most);
    lse.push_back(most + std::log(total));
    if (!is_real(call, t)) continue;
    sum += lse.back() * lse.back();
    n += 1.0;
  }
  n = std::max(n, 1.0);
  expect_near("outputs/z_loss", 0, a.at("outputs/z_loss", 0), sum / n,
              a.bound("outputs/z_loss", 0) + 1e-11 * sum, "the mean over real tokens of logsumexp(z)^2");
  if (!call.backward) return;
  Call without = call;
  without.config.erase("z_loss_coeff");
  const Answer b(impl, without);
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t column = 0; column < d.D; ++column) {
      const std::int64_t i = t * d.D + column;
      double want = 0.0, size = 0.0;
      for (std::int64_t e = 0; e < d.E && is_real(call, t); ++e) {
        const double share = std::exp(z.at(t, e) - lse[static_cast<std::size_t>(t)]);
        const double term =
            d.config.z_loss_coeff * 2.0 / n * lse[static_cast<std::size_t>(t)] * share * w.at(e, column);
        want += term;
        size += std::abs(term);
      }
      expect_near("grads/x", i, a.at("grads/x", i) - b.at("grads/x", i), want,
                  a.bound("grads/x", i) + b.bound("grads/x", i) + 1e-11 * size,
                  "the z-loss adds 2 coeff / n logsumexp(z) softmax(z) W");
    }
}

void arrange_logits(Descriptor& d) {
  arrange_plain(d);
  if (d.score != ScoreFunc::softmax) d.score = ScoreFunc::sigmoid;
  d.before_topk = true;
  d.norm = d.biased_weights = false;
  d.aux = 0.0;
  if (d.logits != Logits::rough) d.logits = Logits::levels;
  if (moe_config(d).maps_logits()) return;
  if (d.seed % 3 != 0) d.config.logit_scale = d.seed % 2 == 0 ? 0.5 : 2.0;
  if (d.seed % 3 != 1) d.config.logit_cap = 1.0;
}

void logit_rule(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, full_call(impl, d));
  expect_weights(a, "logits are scored after logit_scale and logit_cap");
  expect_gradient_of_x(a, d, "the gradient of a logit has the slope of logit_scale and logit_cap");
}

const Property kRouterConventionProperties[] = {
    {"C1",
     "denominator_rule",
     {Component::gate},
     PropertyClass::bounded,
     "normalised weights are divided as norm_denominator and norm_eps say",
     {"denominator rule"},
     arrange_denominator,
     denominator_rule},
    {"C1",
     "top1_rule",
     {Component::gate},
     PropertyClass::bounded,
     "with k = 1 the weight is divided as norm_at_top1 says",
     {"O30"},
     arrange_top1,
     top1_rule},
    {"C2",
     "group_rule",
     {Component::gate},
     PropertyClass::exact,
     "groups are scored and discarded as group_score and discarded_groups say, under every score function",
     {"M8", "O2"},
     arrange_group_rule,
     group_rule},
    {"C6",
     "selection_rule",
     {Component::gate},
     PropertyClass::bounded,
     "under selection_scores the order of logits plus the correction bias selects, and scores weigh",
     {"bias on logits, sigmoid after"},
     arrange_selection,
     selection_rule},
    {"C7",
     "always_selected",
     {Component::gate},
     PropertyClass::bounded,
     "the last n_always_selected experts are among the k of every token, and weighed with the others",
     {"shared experts in the router's normalisation"},
     arrange_always_selected,
     always_selected},
    {"C6",
     "sinkhorn_selection",
     {Component::gate},
     PropertyClass::bounded,
     "under selection_scores = sinkhorn the order of balanced exp(z) selects, and scores weigh",
     {"sinkhorn"},
     arrange_sinkhorn,
     sinkhorn_selection},
    {"C8",
     "router_input",
     {Component::gate},
     PropertyClass::bounded,
     "under router_input_norm the gate sees normalised tokens, whose gradients pass the norm and its scale",
     {"root mean square", "the norm's gradient"},
     arrange_router_input,
     router_input,
     Passes::either},
    {"C8",
     "router_jitter",
     {Component::gate},
     PropertyClass::bounded,
     "under router_jitter the gate sees tokens times noise, as does the way back",
     {"jitter"},
     arrange_router_jitter,
     router_jitter,
     Passes::either},
    {"C8",
     "expert_scale",
     {Component::gate},
     PropertyClass::bounded,
     "per_expert_scale multiplies routing weights after their normalisation, and has its gradient",
     {"scale by slot", "scale before the normalisation"},
     arrange_expert_scale,
     expert_scale,
     Passes::either},
    {"C13",
     "z_loss",
     {Component::gate},
     PropertyClass::bounded,
     "the router z-loss and its gradient by the tokens, with z_loss_coeff",
     {"a sum for the mean", "padding counted"},
     arrange_z_loss,
     z_loss,
     Passes::either},
    {"C3",
     "logit_rule",
     {Component::gate},
     PropertyClass::bounded,
     "scores and gradients go through logit_scale and logit_cap",
     {"soft-cap"},
     arrange_logits,
     logit_rule,
     Passes::either,
     Needs::nothing,
     true},
};

}  // namespace

std::span<const Property> router_convention_properties() { return kRouterConventionProperties; }

}  // namespace moeref
