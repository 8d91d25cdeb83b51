// Backward passes with a wrong derivative inside.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"
#include "property_tests/mutants/plain_gate.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;
using Slope = std::pair<double, double>;

template <Slope (*F)(const MoEConfig&, double, double)>
NamedTensors with_slope(Implementation& sound, const Call& call) {
  return with_parts(sound, call, {.slope = F});
}

Slope silu_slope_is_sigmoid(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  if (c.expert_activation != ActivationKind::swiglu || by_gate == 0.0) return {by_gate, by_up};
  const double limit = c.swiglu_limit > 0.0 ? c.swiglu_limit : INFINITY;
  return {plain_sigmoid(g) * std::clamp(u, -limit, limit), by_up};
}
Slope relu2_slope_without_two(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  return {by_gate, c.expert_activation == ActivationKind::relu2 ? 0.5 * by_up : by_up};
}

/// As if the limits were none, at the values that the clamps let through.
Slope clamp_lets_gradient_through(const MoEConfig& c, double g, double u) {
  MoEConfig open = c;
  const bool swiglu = c.expert_activation == ActivationKind::swiglu;
  const double limit = swiglu ? c.swiglu_limit : c.activation_limit;
  if (facts(c.expert_activation).clamp == ClampField::none || limit <= 0.0) return activation_slope(c, g, u);
  open.swiglu_limit = swiglu ? 0.0 : c.swiglu_limit;
  open.activation_limit = swiglu ? c.activation_limit : 1e300;
  return activation_slope(open, std::min(g, limit), std::clamp(u, -limit, limit));
}

bool has_alpha(const MoEConfig& c) {
  return c.expert_activation == ActivationKind::swigluoai ||
         c.expert_activation == ActivationKind::quick_geglu;
}
Slope slope_without_alpha(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  if (!has_alpha(c) || by_gate == 0.0) return {by_gate, by_up};
  const double s = plain_sigmoid(c.activation_alpha * g);
  return {by_gate * (1.0 + g * (1.0 - s)) / (1.0 + c.activation_alpha * g * (1.0 - s)), by_up};
}
Slope slope_without_one(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  const bool wrong = has_alpha(c) && std::abs(u + 1.0) > 1e-9 && std::abs(u) < c.activation_limit;
  return {wrong ? by_gate * u / (u + 1.0) : by_gate, by_up};
}
Slope gate_and_up_gradients_swapped(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  return c.gated_experts() ? Slope{by_up, by_gate} : Slope{by_gate, by_up};
}
/// The slope of g sigmoid(1.702 g), which is near that of GELU.
Slope gelu_slope_of_quick_gelu(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  if (c.expert_activation != ActivationKind::geglu) return {by_gate, by_up};
  const double s = plain_sigmoid(1.702 * g);
  return {s * (1.0 + 1.702 * g * (1.0 - s)) * u, by_up};
}
Slope relu2_slope_at_zero_side(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  return {by_gate, c.expert_activation == ActivationKind::relu2 ? 2.0 * std::abs(u) : by_up};
}
/// Near enough for the eye: the slope at gates rounded to eighths.
Slope slope_of_rounded_gate(const MoEConfig& c, double g, double u) {
  return {activation_slope(c, std::nearbyint(8.0 * g) / 8.0, u).first, activation_slope(c, g, u).second};
}

NamedTensors softmax_gradient_without_sum(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.softmax_keeps_sum = false});
}
NamedTensors renormalisation_gradient_dropped(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.normalisation_has_slope = false});
}
NamedTensors loss_renormalisation_gradient_dropped(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.loss_normalisation_has_slope = false});
}
NamedTensors last_slot_overwrites_gradient(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.slots_add = false});
}
NamedTensors sigmoid_slope_is_sigmoid(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || score_of(call) == ScoreFunc::sqrtsoftplus) return sound.run(call);
  return with_gate_parts(sound, call, {.slope = [](ScoreFunc, double s, double) { return s; }});
}
NamedTensors sqrtsoftplus_slope_of_softplus(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || score_of(call) != ScoreFunc::sqrtsoftplus) return sound.run(call);
  return with_gate_parts(sound, call,
                         {.slope = [](ScoreFunc, double, double z) { return plain_sigmoid(z); }});
}

constexpr std::string_view kExpertGrads =
    "grads/gate_and_up_projs grads/gate_up_proj_bias grads/gate_proj.bias grads/gate_proj.weight "
    "grads/up_proj.bias "
    "grads/up_proj.weight grads/x";
constexpr std::string_view kGateGrads = "grads/bias grads/weight grads/x";

const Mutant kSlopeMutants[] = {
    {"silu_slope_is_sigmoid",
     "",
     "unsloth #3314",
     {C::experts, C::mlp},
     "the slope of SiLU lacks its second term",
     "G",
     "grads/gate_and_up_projs grads/gate_up_proj_bias grads/gate_proj.bias grads/gate_proj.weight grads/x",
     "central_differences within_bounds",
     with_slope<silu_slope_is_sigmoid>},
    {"relu2_slope_without_two", "", "", kMlps, "the slope of relu2 lacks its factor of 2", "G", kExpertGrads,
     "central_differences", with_slope<relu2_slope_without_two>},
    {"relu2_slope_below_zero", "", "", kMlps, "the slope of relu2 is 2 |u| on both sides of 0", "G",
     kExpertGrads, "central_differences", with_slope<relu2_slope_at_zero_side>},
    {"clamp_lets_gradient_through", "", "", kMlps, "clamped values have the gradient of others", "G",
     kExpertGrads, "central_differences", with_slope<clamp_lets_gradient_through>},
    {"slope_without_alpha",
     "",
     "",
     {C::experts},
     "alpha is left out of the slope",
     "G",
     kExpertGrads,
     "central_differences",
     with_slope<slope_without_alpha>},
    {"slope_without_one",
     "",
     "",
     {C::experts},
     "the gate's gradient is multiplied by up in place of up + 1",
     "G",
     kExpertGrads,
     "central_differences",
     with_slope<slope_without_one>},
    {"gate_and_up_gradients_swapped", "", "", kMlps, "the gradients of gate and up change places", "G",
     kExpertGrads, "central_differences", with_slope<gate_and_up_gradients_swapped>},
    {"gelu_slope_of_quick_gelu",
     "",
     "",
     {C::experts},
     "the slope of GELU is that of its sigmoid form",
     "G",
     kExpertGrads,
     "central_differences",
     with_slope<gelu_slope_of_quick_gelu>},
    {"slope_of_rounded_gate", "", "", kMlps, "slopes come from a table of steps of 1/8", "G", kExpertGrads,
     "central_differences", with_slope<slope_of_rounded_gate>},
    {"softmax_gradient_without_sum",
     "",
     "",
     {C::gate},
     "the gradient of the softmax lacks its sum",
     "G",
     kGateGrads,
     "central_differences within_bounds",
     softmax_gradient_without_sum},
    {"renormalisation_gradient_dropped",
     "",
     "",
     {C::gate},
     "the sum that weights are divided by has no gradient",
     "G",
     kGateGrads,
     "central_differences within_bounds",
     renormalisation_gradient_dropped},
    {"loss_renormalisation_gradient_dropped",
     "",
     "",
     {C::gate},
     "the sum that the loss's scores are divided by has no gradient",
     "G",
     kGateGrads,
     "central_differences",
     loss_renormalisation_gradient_dropped},
    {"last_slot_overwrites_gradient",
     "",
     "",
     {C::gate},
     "of a token's slots the last one's gradient alone reaches the scores",
     "G",
     kGateGrads,
     "central_differences",
     last_slot_overwrites_gradient},
    {"sigmoid_slope_is_sigmoid",
     "",
     "",
     {C::gate},
     "the slope of the sigmoid is taken for s in place of s (1 - s)",
     "G",
     kGateGrads,
     "central_differences",
     sigmoid_slope_is_sigmoid},
    {"sqrtsoftplus_slope_of_softplus",
     "",
     "",
     {C::gate},
     "the slope of sqrtsoftplus lacks that of the root",
     "G",
     kGateGrads,
     "central_differences",
     sqrtsoftplus_slope_of_softplus},
};

}  // namespace

std::span<const Mutant> slope_mutants() { return kSlopeMutants; }

}  // namespace moeref
