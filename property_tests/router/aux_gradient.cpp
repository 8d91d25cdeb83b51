// The gradient of the auxiliary loss: through P alone, linear in the coefficient, independent of the
// cotangent of w.
#include <algorithm>
#include <cmath>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void arrange_gate_gradient(Descriptor& d) {
  if (d.aux == 0.0) d.aux = 0.5;
  d.eval = false;
}

/// With the ids given the loss is linear in the scores: a difference quotient is exact but for rounding.
void frozen_counts(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  const Answer a(impl, call);
  if (d.T == 0) return;
  for (int probe = 0; probe < 3; ++probe) {
    const auto i = static_cast<std::int64_t>((d.seed + static_cast<std::uint64_t>(probe) * 7919u) %
                                             static_cast<std::uint64_t>(d.T * d.E));
    Call moved = call;
    Tensor& scores = moved.tensors.at("inputs/original_scores");
    const double before = scores[i];
    scores.set(i, before + 1.0);
    const double step = scores[i] - before;  // as the dtype holds it
    const Answer b(impl, moved);
    expect_identical(a, b, "outputs/expert_load", "scores do not choose the load");
    expect_near("grads/original_scores", i, step * a.at("grads/original_scores", i),
                b.at("outputs/aux_loss", 0) - a.at("outputs/aux_loss", 0),
                step * a.bound("grads/original_scores", i) + a.bound("outputs/aux_loss", 0) +
                    b.bound("outputs/aux_loss", 0),
                "the loss is linear in the scores: its difference is the gradient");
  }
}

/// d loss / d S_ti = f_i m_t / n from the implementation's own load.
void gradient_of_load(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  const Answer a(impl, call);
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  double n = 0.0;
  for (std::int64_t t = 0; t < d.T; ++t) n += mask ? (*mask)[t] : 1.0;
  for (std::int64_t i = 0; i < d.T * d.E; ++i) {
    const double real = mask ? (*mask)[i / d.E] : 1.0;
    const double f = a.at("outputs/expert_load", i % d.E) * static_cast<double>(d.E) /
                     (static_cast<double>(d.k) * std::max(n, 1.0));
    const double want = real * f / std::max(n, 1.0);
    expect_near("grads/original_scores", i, a.at("grads/original_scores", i), want,
                a.bound("grads/original_scores", i) + 1e-13 * want, "f_i m_t / n");
  }
}

/// grads(c) - grads(0) is the loss's own part; it must be linear in c.
Answer with_coefficient(Implementation& impl, const Call& call, double coefficient, double scale = 1.0) {
  Call out = with_config(call, {{"aux_loss_coeff", coefficient}});
  out.options["aux_loss_backward_scale"] = scale;
  return Answer(impl, out);
}

/// The same routing where it is decided. Sums in another order may choose otherwise elsewhere, after which
/// gradients say nothing.
void expect_same_ids(const Answer& a, const Answer& b, std::string_view text) {
  for (std::int64_t t = 0; t < a.tokens(); ++t) (void)expect_same_routing(a, t, b, t, text);
  if (!(a["outputs/indices"] == b["outputs/indices"]))
    throw Discarded("an undecided token was routed in two ways");
}

void expect_linear(const Answer& one, const Answer& two, const Answer& none, std::string_view text) {
  for (const auto& [name, tensor] : none.results()) {
    if (!name.starts_with("grads/")) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_near(name, i, two.at(name, i) - none.at(name, i), 2.0 * (one.at(name, i) - none.at(name, i)),
                  two.bound(name, i) + 2.0 * one.bound(name, i) + 3.0 * none.bound(name, i), text);
  }
}

void linear_coefficient(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  const Answer none = with_coefficient(impl, call, 0.0), one = with_coefficient(impl, call, d.aux),
               two = with_coefficient(impl, call, 2.0 * d.aux),
               scaled = with_coefficient(impl, call, d.aux, 2.0);
  for (const Answer* other : {&one, &two, &scaled})
    expect_same_ids(none, *other, "neither the coefficient nor the backward scale routes");
  expect_same(two, one, "outputs/aux_loss", "the loss is returned without its coefficient");
  expect_same(scaled, one, "outputs/aux_loss", "the backward scale is not part of the loss");
  expect_linear(one, two, none, "twice the coefficient: twice the loss's gradient");
  expect_linear(one, scaled, none, "twice the backward scale: twice the loss's gradient");
}

/// The loss's part of the gradient does not depend on the cotangent of w, and leaves that of w itself alone.
void independent_of_cotangent(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  Call zero = call, negated = call;
  Tensor& dw = zero.tensors.at("cotangents/weights");
  dw = filled(dw.dtype(), dw.shape(), 0.0);
  negated.tensors.at("cotangents/weights") = scaled(call.tensors.at("cotangents/weights"), -1.0);
  const Answer none = with_coefficient(impl, zero, 0.0), base = with_coefficient(impl, zero, d.aux),
               both = with_coefficient(impl, call, d.aux), main = with_coefficient(impl, call, 0.0),
               opposite = with_coefficient(impl, negated, d.aux);
  for (const Answer* other : {&none, &both, &main, &opposite})
    expect_same_ids(base, *other, "neither the coefficient nor a cotangent routes");
  for (const auto& [name, tensor] : base.results()) {
    if (!name.starts_with("grads/")) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      expect_equal(name, i, none.at(name, i), 0.0, "no coefficient and no cotangent: no gradient");
      expect_near(name, i, both.at(name, i) - main.at(name, i), base.at(name, i),
                  both.bound(name, i) + main.bound(name, i) + base.bound(name, i),
                  "the loss's gradient is the same with and without a cotangent of the weights");
      expect_near(name, i, both.at(name, i) + opposite.at(name, i), 2.0 * base.at(name, i),
                  both.bound(name, i) + opposite.bound(name, i) + 2.0 * base.bound(name, i),
                  "the loss's gradient does not follow the sign of the cotangent");
    }
  }
}

/// Softmax scores, identity gate: d loss / d z_ti = S_ti (g_i - sum_j g_j S_tj) with g = coeff f / n, in
/// closed form.
void closed_form(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d, true);
  Tensor& dw = call.tensors.at("cotangents/weights");
  dw = filled(dw.dtype(), dw.shape(), 0.0);
  const Answer a(impl, call);
  const Matrix s = scores_of(call);
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  double n = 0.0;
  for (std::int64_t t = 0; t < d.T; ++t) n += mask ? (*mask)[t] : 1.0;
  n = std::max(n, 1.0);
  std::vector<double> g;
  for (std::int64_t e = 0; e < d.E; ++e)
    g.push_back(d.aux * d.aux_scale * a.at("outputs/expert_load", e) * static_cast<double>(d.E) /
                (static_cast<double>(d.k) * n * n));
  for (std::int64_t t = 0; t < d.T; ++t) {
    const double real = mask ? (*mask)[t] : 1.0;
    double inner = 0.0;
    for (std::int64_t e = 0; e < d.E; ++e) inner += g[static_cast<std::size_t>(e)] * s.at(t, e);
    for (std::int64_t e = 0; e < d.E; ++e) {
      const double own = d.score == ScoreFunc::sigmoid
                             ? g[static_cast<std::size_t>(e)] * s.at(t, e) * (1.0 - s.at(t, e))
                             : s.at(t, e) * (g[static_cast<std::size_t>(e)] - inner);
      const std::int64_t i = t * d.D + e;
      expect_near("grads/x", i, a.at("grads/x", i), real * own, a.bound("grads/x", i) + 1e-12 * std::abs(own),
                  "no cotangent of the weights: the loss alone, through the scores");
    }
  }
}

void arrange_closed_form(Descriptor& d) {
  arrange_gate_gradient(d);
  if (d.score != ScoreFunc::softmax) d.score = ScoreFunc::sigmoid;
  d.norm = d.biased_weights = false;
  if (d.logits == Logits::rough || d.logits == Logits::whole) d.logits = Logits::levels;
  if (d.aux_scale == 1.0) d.aux_scale = 4.0;
}

const Property kAuxGradientProperties[] = {
    {"P25",
     "frozen_counts",
     {Component::aux_loss},
     PropertyClass::bounded,
     "the gradient is the difference of the loss with the load held",
     {"gradient through counts"},
     nullptr,
     frozen_counts,
     Passes::backward},
    {"P25",
     "gradient_of_load",
     {Component::aux_loss},
     PropertyClass::bounded,
     "each score's gradient is f_i m_t / n",
     {"A2", "A7", "M13", "M30"},
     nullptr,
     gradient_of_load,
     Passes::backward,
     Needs::nothing,
     true},
    {"P23",
     "linear_coefficient",
     {Component::gate},
     PropertyClass::bounded,
     "the loss's gradient doubles with the coefficient and with the backward scale, the loss itself with "
     "neither",
     {"A2", "A3", "A4", "A5", "boolean coefficient"},
     arrange_gate_gradient,
     linear_coefficient,
     Passes::backward},
    {"P23",
     "independent_of_cotangent",
     {Component::gate},
     PropertyClass::bounded,
     "the loss's gradient comes with any gradient of the weights",
     {"A1", "A20"},
     arrange_gate_gradient,
     independent_of_cotangent,
     Passes::backward},
    {"P25",
     "loss_gradient",
     {Component::gate},
     PropertyClass::bounded,
     "the loss's gradient through softmax or sigmoid, in closed form",
     {"A1", "A2", "A3", "M30"},
     arrange_closed_form,
     closed_form,
     Passes::backward},
};

}  // namespace

std::span<const Property> aux_gradient_properties() { return kAuxGradientProperties; }

}  // namespace moeref
