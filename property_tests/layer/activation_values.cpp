// What experts and MLP compute of one inner unit: every activation in closed form, and situ's gradients.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

double sigmoid(double z) { return 1.0 / (1.0 + std::exp(-z)); }

double swiglu(double g, double u) { return g * sigmoid(g) * u; }
double scaled_glu(double g, double u) { return g * sigmoid(1.702 * g) * (u + 1.0); }
double geglu(double g, double u) {
  return 0.5 * g * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (g + 0.044715 * g * g * g))) * u;
}
double relu2(double, double u) { return u > 0.0 ? u * u : 0.0; }
double gelu_erf(double z) { return 0.5 * z * std::erfc(-z / std::numbers::sqrt2); }

/// beta tanh(z / beta), or z where beta is 0, and its slope.
double bounded(double z, double beta) { return beta > 0.0 ? beta * std::tanh(z / beta) : z; }
double bounded_slope(double z, double beta) {
  return beta > 0.0 ? 1.0 / (std::cosh(z / beta) * std::cosh(z / beta)) : 1.0;
}
double situ(double g, double u, double beta, double linear_beta) {
  return bounded(g, beta) * sigmoid(g) * bounded(u, linear_beta);
}

/// The formulas of SPEC 5 once more, in plain double arithmetic.
struct Formula {
  ActivationKind kind;
  double (*value)(double gate, double up);
};
constexpr auto kFormulas = std::to_array<Formula>({
    {ActivationKind::swiglu, swiglu},
    {ActivationKind::swigluoai, scaled_glu},
    {ActivationKind::quick_geglu, scaled_glu},
    {ActivationKind::geglu, geglu},
    {ActivationKind::relu2, relu2},
    {ActivationKind::geglu_erf, [](double g, double u) { return gelu_erf(g) * u; }},
    {ActivationKind::silu, [](double, double u) { return u * sigmoid(u); }},
    {ActivationKind::gelu, [](double, double u) { return gelu_erf(u); }},
    {ActivationKind::gelu_tanh, [](double, double u) { return geglu(u, 1.0); }},
    {ActivationKind::relu, [](double, double u) { return std::max(u, 0.0); }},
    {ActivationKind::situ, [](double g, double u) { return situ(g, u, 4.0, 25.0); }},
});
static_assert(has_row_per_enumerator<kFormulas>());

bool clamps(const Descriptor& d) {
  const ActivationFacts& row = facts(d.activation);
  return row.always_clamps || (d.limit > 0.0 && row.clamp != ClampField::none);
}

double activation_of(const Descriptor& d, double g, double u) {
  if (d.config.clamp_after_activation && d.activation == ActivationKind::swiglu && clamps(d))
    return std::min(g * sigmoid(g), d.limit) * std::clamp(u, -d.limit, d.limit);
  if (d.activation == ActivationKind::situ) return situ(g, u, d.config.situ_beta, d.config.situ_linear_beta);
  if (clamps(d)) {
    g = std::min(g, d.limit);
    u = std::clamp(u, -d.limit, d.limit);
  }
  return kFormulas[static_cast<std::size_t>(d.activation)].value(g, u);
}

/// Gate and up of a token: zeros, both signs, the limit and beyond it, and where sigmoid is 1.
double probe(const Descriptor& d, std::int64_t i) {
  const double table[] = {0.0,  1.0,  -1.0, 0.5, d.limit, -d.limit, d.limit + 0.5, -d.limit - 8.0,
                          40.0, -3.0, 2.0};
  return table[(d.seed + static_cast<std::uint64_t>(i)) % std::size(table)];
}

/// Zero but for one hidden unit of each expert, so that y[t, 0] is act(x[t, 0], x[t, 1]) and the rest is 0.
Call one_unit(const Descriptor& d) {
  Call call = make_call(d);
  for (auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/")) tensor = filled(tensor.dtype(), tensor.shape(), 0.0);
  const bool gated = facts(d.activation).gated, interleaved = facts(d.activation).interleaved;
  if (d.component == Component::mlp) {
    const std::int64_t unit = d.I / 2;
    if (gated) call.tensors.at("params/gate_proj.weight").set(unit * d.D, 1.0);
    call.tensors.at("params/up_proj.weight").set(unit * d.D + 1, 1.0);
    call.tensors.at("params/down_proj.weight").set(unit, 1.0);
  } else {
    Tensor &up = call.tensors.at("params/gate_and_up_projs"), &down = call.tensors.at("params/down_projs");
    Tensor& weights = call.tensors.at("inputs/weights");
    weights = filled(weights.dtype(), weights.shape(), 1.0);
    const std::int64_t columns = gated ? 2 * d.I : d.I;
    for (std::int64_t e = 0; e < d.E; ++e) {
      const std::int64_t unit = e % d.I, first = e * d.D * columns;
      if (gated) up.set(first + (interleaved ? 2 * unit : unit), 1.0);
      up.set(first + columns + (interleaved ? 2 * unit + 1 : gated ? d.I + unit : unit), 1.0);
      down.set((e * d.I + unit) * d.D, 1.0);
    }
  }
  Tensor& x = call.tensors.at("inputs/x");
  for (std::int64_t t = 0; t < d.T; ++t) {
    x.set(t * d.D, probe(d, t));
    x.set(t * d.D + 1, probe(d, 3 * t + 1 + t / 11));
  }
  return call;
}

void activation_values(Implementation& impl, const Descriptor& d) {
  const Call call = one_unit(d);
  const Answer a(impl, call);
  const Tensor& x = call.tensors.at("inputs/x");
  Call clamped = call;
  for (std::int64_t t = 0; t < d.T; ++t) {
    const double g = x[t * d.D], u = x[t * d.D + 1], want = activation_of(d, g, u);
    const std::int64_t i = t * d.D;
    expect_near("outputs/y", i, a.at("outputs/y", i), want, a.bound("outputs/y", i) + 1e-14 * std::abs(want),
                "act of gate and up, in closed form");
    const bool gated = facts(d.activation).gated;
    const bool rectified = d.activation == ActivationKind::relu2 || d.activation == ActivationKind::relu;
    const bool flat = gated ? g == 0.0 : rectified ? u <= 0.0 : u == 0.0;
    // Sigmoid and tanh of 40 are 1 in every type, and what remains are products of small integers.
    const bool linear = gated && g == 40.0 && d.activation != ActivationKind::situ && !clamps(d) &&
                        u == std::floor(u) && std::abs(u) < 4.0;
    if (flat || linear)
      expect_equal("outputs/y", i, a.at("outputs/y", i), want, flat ? "act(0) = 0" : "act(40) = 40");
    for (std::int64_t c = 1; c < d.D; ++c)
      expect_equal("outputs/y", i + c, a.at("outputs/y", i + c), 0.0, "a column that no weight reaches");
    clamped.tensors.at("inputs/x").set(i, std::min(g, d.limit));
    clamped.tensors.at("inputs/x").set(i + 1, std::clamp(u, -d.limit, d.limit));
  }
  if (clamps(d) && !d.config.clamp_after_activation)
    expect_identical(a, Answer(impl, clamped), "outputs/y", "inputs were clamped beforehand");
}

/// The gradient of x where y's cotangent is 1 at the unit and 0 elsewhere.
void situ_gradients(Implementation& impl, const Descriptor& d) {
  Call call = one_unit(d);
  call.backward = true;
  const Tensor& x = call.tensors.at("inputs/x");
  Tensor& dy = call.tensors["cotangents/y"] = filled(d.dtype, x.shape(), 0.0);
  for (std::int64_t t = 0; t < d.T; ++t) dy.set(t * d.D, 1.0);
  const Answer a(impl, call);
  const double beta = d.config.situ_beta, linear_beta = d.config.situ_linear_beta;
  for (std::int64_t t = 0; t < d.T; ++t) {
    const double g = x[t * d.D], u = x[t * d.D + 1], s = sigmoid(g), gate = bounded(g, beta);
    const double by_gate = (bounded_slope(g, beta) * s + gate * s * (1.0 - s)) * bounded(u, linear_beta);
    expect_near("grads/x", t * d.D, a.at("grads/x", t * d.D), by_gate,
                a.bound("grads/x", t * d.D) + 1e-13 * std::abs(by_gate), "situ's slope by its gate");
    const double by_up = gate * s * bounded_slope(u, linear_beta);
    expect_near("grads/x", t * d.D + 1, a.at("grads/x", t * d.D + 1), by_up,
                a.bound("grads/x", t * d.D + 1) + 1e-13 * std::abs(by_up), "situ's slope by its up half");
  }
}

void arrange_one_unit(Descriptor& d) {
  d.D = std::max<std::int64_t>(d.D, 2);
  d.k = 1;
  d.mask = Mask::absent;
  d.expert_bias = false;
  if (d.ids == Ids::absent_slots) d.ids = Ids::distinct;
}

void arrange_one_unit_beyond(Descriptor& d) {
  arrange_one_unit(d);
  if (!facts(d.activation).convention)
    d.activation =
        kActivations[kDocumentedActivations + d.seed % (kActivations.size() - kDocumentedActivations)].kind;
}

void arrange_one_unit_of_situ(Descriptor& d) {
  arrange_one_unit(d);
  d.activation = ActivationKind::situ;
  const double betas[][2] = {{4.0, 25.0}, {1.0, 9.0}, {2.5, 0.0}};
  d.config.situ_beta = betas[d.seed % 3][0], d.config.situ_linear_beta = betas[d.seed % 3][1];
}

void arrange_one_unit_clamped_after(Descriptor& d) {
  arrange_one_unit(d);
  d.config.clamp_after_activation = true;
  d.activation = ActivationKind::swiglu;
  if (d.limit != 0.5 && d.limit != 2.0) d.limit = d.seed % 2 == 0 ? 0.5 : 2.0;
}

/// The tensor read backwards: another tensor whose sum with the first one is exact.
const Property kActivationValueProperties[] = {
    {"P40",
     "activation_values",
     {Component::experts, Component::mlp},
     PropertyClass::bounded,
     "act(gate, up) in closed form; exactly where it is 0, saturated or clamped",
     {"O9", "O10", "A32", "A33", "A34", "gate/up swapped"},
     arrange_one_unit,
     activation_values},
    {"C9",
     "activations_beyond",
     {Component::experts},
     PropertyClass::bounded,
     "the same for activations that the documented system does not have",
     {"erf taken for tanh", "an activation without a gate squared"},
     arrange_one_unit_beyond,
     activation_values},
    {"C10",
     "clamps_after_activation",
     {Component::experts},
     PropertyClass::bounded,
     "under clamp_after_activation swiglu_limit clamps silu(gate), and up",
     {"clamp before the activation"},
     arrange_one_unit_clamped_after,
     activation_values},
    {"C9",
     "situ_values",
     {Component::experts, Component::mlp},
     PropertyClass::bounded,
     "situ in closed form, with any bounds of its two halves and none of the up half",
     {"a half that nothing bounds", "the usual bounds in place of the config's"},
     arrange_one_unit_of_situ,
     activation_values},
    {"C9",
     "situ_gradients",
     {Component::experts, Component::mlp},
     PropertyClass::bounded,
     "the gradient of x through situ in closed form",
     {"the slope of tanh left out"},
     arrange_one_unit_of_situ,
     situ_gradients,
     Passes::backward},
};

}  // namespace

std::span<const Property> activation_value_properties() { return kActivationValueProperties; }

}  // namespace moeref
