// What the gate makes of logits and of scores by rules that the documented system does not have (SPEC 10):
// the formulas on calls in which the rule decides.
#include <algorithm>
#include <cmath>
#include <vector>

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

const Property kScoreConventionProperties[] = {
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

std::span<const Property> score_convention_properties() { return kScoreConventionProperties; }

}  // namespace moeref
