// Which way gradients go: to the gate through selected weights only, from the auxiliary loss beside those of
// the output and not through them.
#include <algorithm>
#include <cmath>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Independent scores: a logit has a gradient if and only if a real token selected its expert.
void gate_gradient_rows(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d, true));
  const std::vector<std::int64_t> ids = live_ids(a);
  const Tensor& x = a.call().tensors.at("inputs/x");
  const auto has_input = [&](std::int64_t expert) {
    for (std::int64_t i = 0; i < d.T * d.D; ++i)
      if (x[i] != 0.0 && meets(ids, d.k, i / d.D, expert)) return true;
    return false;
  };
  for (std::int64_t e = 0; e < d.E; ++e) {
    if (std::ranges::find(ids, e) == ids.end()) {
      expect_equal("grads/gate.bias", e, a.at("grads/gate.bias", e), 0.0, "no token selected the expert");
      expect_zero_slice(a, "grads/gate.weight", e, "no token selected the expert");
    } else if (has_input(e) && a.at("grads/gate.bias", e) == 0.0) {
      fail({"grads/gate.bias", e, 0.0, 0.0, 0.0, "the expert was selected: its logit must have a gradient"});
    }
  }
}

void arrange_gate_rows(Descriptor& d) {
  arrange_replayed_routing(d);
  arrange_wide(d);
  d.score = d.seed % 2 == 0 ? ScoreFunc::sigmoid : ScoreFunc::sqrtsoftplus;
  d.aux = 0.0;
  d.norm = d.frozen = d.biased_weights = false;
  d.router_bias = true;
  d.values = Values::rough;
  // relu2, clamps and a tanh of -1 can make an expert's output 0.
  if (d.activation != ActivationKind::swigluoai) d.activation = ActivationKind::swiglu;
  d.limit = 0.0;
  if (d.logits == Logits::large) d.logits = Logits::levels;
  if (d.factor > 0.0) d.frozen = false;
}

/// Loss and output send their gradients side by side: g(c, dy) = g(0, dy) + g(c, 0).
void loss_beside_output(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  Call quiet = call;
  Tensor& dy = quiet.tensors.at("cotangents/y");
  dy = filled(dy.dtype(), dy.shape(), 0.0);
  const Answer both(impl, call), output(impl, with_config(call, {{"aux_loss_coeff", 0.0}})),
      loss(impl, quiet), none(impl, with_config(quiet, {{"aux_loss_coeff", 0.0}}));
  for (const auto& [name, tensor] : none.results()) {
    if (!name.starts_with("grads/")) continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_equal(name, i, tensor[i], 0.0, "no coefficient and no cotangent: no gradient");
    Combination().add(output).add(loss).expect(both, name, "gradients of the loss and of the output add up");
    if (name.starts_with("grads/gate.") || name == "grads/x") continue;
    for (std::int64_t i = 0; i < tensor.size(); ++i)
      expect_equal(name, i, loss.at(name, i), 0.0, "the loss reaches the gate and x alone");
  }
}

/// With ids given the loss is a function of the scores alone: it doubles with its coefficient.
void loss_scale(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d, true);
  Tensor& dy = call.tensors.at("cotangents/y");
  dy = filled(dy.dtype(), dy.shape(), 0.0);
  Call louder = with_config(call, {{"aux_loss_coeff", 2.0 * d.aux}}), scale = call;
  scale.options["aux_loss_backward_scale"] = 2.0 * d.aux_scale;
  const Answer a(impl, call), b(impl, louder), c(impl, scale);
  for (const auto& [name, tensor] : a.results()) {
    if (!name.starts_with("grads/")) continue;
    expect_same(b, a, name, "the coefficient was doubled", 2.0);
    expect_same(c, a, name, "the backward scale was doubled", 2.0);
  }
  expect_same(b, a, "outputs/aux_loss", "the loss comes without its coefficient");
  const bool wide = d.dtype == DType::float32 || d.dtype == DType::float64;
  if (wide && !d.norm && d.score == ScoreFunc::sigmoid && !d.frozen && d.router_bias) {
    const std::vector<std::int64_t> ids = live_ids(a);
    for (std::int64_t e = 0; e < d.E; ++e)
      if (std::ranges::find(ids, e) != ids.end() && a.at("grads/gate.bias", e) == 0.0)
        fail({"grads/gate.bias", e, 0.0, 0.0, 0.0, "an expert with load must get the loss's gradient"});
  }
}

void arrange_loss_gradient(Descriptor& d) {
  arrange_replayed_routing(d);
  d.eval = false;
  if (d.aux == 0.0) d.aux = 0.5;
  if (d.logits == Logits::large) d.logits = Logits::levels;
}

/// The two halves of a token's cotangent send two halves of every gradient, aux loss aside.
void linear_cotangent(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d, true);
  Call head = call, tail = call, twice = call;
  Tensor &first = head.tensors.at("cotangents/y"), &second = tail.tensors.at("cotangents/y");
  for (std::int64_t i = 0; i < first.size(); ++i) (i % 3 == 0 ? first : second).set(i, 0.0);
  twice.tensors["cotangents/y"] = scaled(call.tensors.at("cotangents/y"), 2.0);
  const Answer a(impl, call), b(impl, head), c(impl, tail), doubled(impl, twice);
  for (const auto& [name, tensor] : a.results()) {
    if (!name.starts_with("grads/")) continue;
    Combination().add(b).add(c).expect(a, name, "the cotangent in two parts");
    Combination().add(a, 2.0).expect(doubled, name, "the cotangent was doubled");
  }
}

void arrange_linear_cotangent(Descriptor& d) {
  arrange_given_routing(d);
  d.aux = 0.0;
}

const Property kGradientFlowProperties[] = {
    {"P50",
     "gate_gradient_rows",
     {Component::moe},
     PropertyClass::exact,
     "with scores that are independent, exactly the logits of selected experts have a gradient",
     {"A20", "A16", "detached weights"},
     arrange_gate_rows,
     gate_gradient_rows,
     Passes::backward},
    {"P50",
     "loss_beside_output",
     {Component::moe},
     PropertyClass::bounded,
     "the auxiliary loss adds its gradient to the gate's and leaves that of the output as it is",
     {"A1", "A2", "A20", "A43"},
     arrange_loss_gradient,
     loss_beside_output,
     Passes::backward},
    {"P23",
     "layer_loss_scale",
     {Component::moe},
     PropertyClass::bounded,
     "the loss's gradient in a layer doubles with coefficient and backward scale, and is there at all",
     {"A1", "A2", "A3", "A5"},
     arrange_loss_gradient,
     loss_scale,
     Passes::backward},
    {"P49",
     "linear_cotangent",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "gradients are linear in the cotangent",
     {"cotangent of another token", "O11"},
     arrange_linear_cotangent,
     linear_cotangent,
     Passes::backward},
};

}  // namespace

std::span<const Property> gradient_flow_properties() { return kGradientFlowProperties; }

}  // namespace moeref
