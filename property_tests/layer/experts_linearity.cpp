// All that is linear about experts and MLP: the tensors of down and up, routing weights, the bias of down.
#include <algorithm>
#include <cmath>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

Tensor reversed(const Tensor& tensor) {
  Tensor out = tensor;
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, tensor[tensor.size() - 1 - i]);
  return out;
}
Tensor plus(const Tensor& a, const Tensor& b) {
  Tensor out = a;
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, a[i] + b[i]);
  return out;
}

/// The tensors that are there, doubled.
Call doubled_in(Call call, std::initializer_list<const char*> tensors) {
  for (const char* name : tensors)
    if (const auto found = call.tensors.find(name); found != call.tensors.end())
      found->second = scaled(found->second, 2.0);
  return call;
}

/// y is linear in these tensors taken together.
void expect_linear_in(Implementation& impl, const Call& call, std::initializer_list<const char*> tensors,
                      std::string_view text) {
  Call other = call, both = call;
  for (const char* name : tensors) {
    if (!call.tensors.contains(name)) continue;
    const Tensor& tensor = call.tensors.at(name);
    other.tensors[name] = reversed(tensor);
    both.tensors[name] = plus(tensor, reversed(tensor));
  }
  const Answer a(impl, call), b(impl, other), sum(impl, both), doubled(impl, doubled_in(call, tensors));
  Combination().add(a, 2.0).expect(doubled, "outputs/y", text);
  Combination().add(a).add(b).expect(sum, "outputs/y", text);
}

constexpr std::initializer_list<const char*> kDown{"params/down_projs", "params/down_proj_bias",
                                                   "params/down_proj.weight", "params/down_proj.bias"};

void linear_down(Implementation& impl, const Descriptor& d) {
  expect_linear_in(impl, make_call(d), kDown, "y is linear in the down projection");
}

void arrange_linear(Descriptor& d) {
  arrange_wide(d);
  d.values = Values::exact;
}

/// Up columns alone are mixed: gate columns stay as they are.
void linear_up(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  if (d.component == Component::mlp) {
    expect_linear_in(impl, call, {"params/up_proj.weight", "params/up_proj.bias"},
                     "y is linear in the up projection");
    return;
  }
  Call twice = call, other = call, both = call;
  for (const char* name : {"params/gate_and_up_projs", "params/gate_up_proj_bias"}) {
    if (!call.tensors.contains(name)) continue;
    const Tensor& tensor = call.tensors.at(name);
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      if (i % (2 * d.I) < d.I) continue;
      // The same column of another row: an up column too.
      const double second = tensor[(i + 2 * d.I) % tensor.size()];
      twice.tensors.at(name).set(i, 2.0 * tensor[i]);
      other.tensors.at(name).set(i, second);
      both.tensors.at(name).set(i, tensor[i] + second);
    }
  }
  constexpr std::string_view text = "y is linear in the up columns";
  const Answer a(impl, call), b(impl, other), sum(impl, both), doubled(impl, twice);
  Combination().add(a, 2.0).expect(doubled, "outputs/y", text);
  Combination().add(a).add(b).expect(sum, "outputs/y", text);
}

void arrange_linear_up(Descriptor& d) {
  arrange_linear(d);
  if (d.activation != ActivationKind::geglu || d.component == Component::mlp)
    d.activation = ActivationKind::swiglu;
  d.limit = 0.0;
  d.expert_bias = false;  // the down bias does not pass through the up projection
}

/// What doubles with the routing weights.
void expect_doubled(const Answer& twice, const Answer& once, std::string_view text, bool exact) {
  for (const char* doubles : {"outputs/y", "grads/x", "grads/down_projs"})
    if (once.call().backward || doubles == std::string_view("outputs/y"))
      Combination().add(once, 2.0).expect(twice, doubles, text, exact);
}

/// A factor of two is exact at every rounding, whatever the sums are, as long as their order stays.
void exact_doubling(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call), down(impl, doubled_in(call, kDown));
  Combination().add(a, 2.0).expect(down, "outputs/y", "the down projection was doubled", true);
  if (d.component == Component::experts)
    expect_doubled(Answer(impl, doubled_in(call, {"inputs/weights"})), a, "routing weights were doubled",
                   true);
}

void linear_weights(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call none = call;
  Tensor& zero = none.tensors.at("inputs/weights");
  zero = filled(zero.dtype(), zero.shape(), 0.0);
  const Answer a(impl, call), b(impl, doubled_in(call, {"inputs/weights"})), c(impl, none);
  expect_doubled(b, a, "routing weights were doubled", false);
  if (call.backward)
    expect_same(b, a, "grads/weights", "the gradient of routing weights does not depend on them");
  for (const auto& [name, tensor] : c.results())
    for (std::int64_t i = 0; i < tensor.size() && !name.starts_with("stages/") && name != "grads/weights";
         ++i)
      expect_equal(name, i, tensor[i], 0.0, "all routing weights are 0");
  expect_linear_in(impl, call, {"inputs/weights"}, "y is linear in the routing weights");
}

/// W_down = 0 leaves the sum of w_i b_i, and sum_t w u_t as the bias's gradient.
void down_bias(Implementation& impl, const Descriptor& d) {
  Call call = full_call(impl, d);
  Tensor& down = call.tensors.at("params/down_projs");
  down = filled(down.dtype(), down.shape(), 0.0);
  const Answer a(impl, call);
  const std::vector<std::int64_t> ids = live_ids(a);
  const Tensor &bias = call.tensors.at("params/down_proj_bias"), &w = call.tensors.at("inputs/weights");
  const Tensor* u = find(call.tensors, "cotangents/y");
  std::vector<double> gradient(static_cast<std::size_t>(bias.size()));
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t c = 0; c < d.D; ++c) {
      double sum = 0.0, magnitude = 0.0;
      for (std::int64_t i = t * d.k; i < (t + 1) * d.k; ++i) {
        const std::int64_t e = ids[static_cast<std::size_t>(i)];
        if (e < 0) continue;
        sum += w[i] * bias[e * d.D + c];
        magnitude += std::abs(w[i] * bias[e * d.D + c]);
        if (u) gradient[static_cast<std::size_t>(e * d.D + c)] += w[i] * (*u)[t * d.D + c];
      }
      expect_near("outputs/y", t * d.D + c, a.at("outputs/y", t * d.D + c), sum,
                  a.bound("outputs/y", t * d.D + c) + 1e-14 * magnitude,
                  "down projections are 0: y = sum of w b");
    }
  for (std::int64_t i = 0; u && i < bias.size(); ++i)
    expect_near("grads/down_proj_bias", i, a.at("grads/down_proj_bias", i),
                gradient[static_cast<std::size_t>(i)], a.bound("grads/down_proj_bias", i) + 1e-12,
                "the down bias's gradient is the sum of w dy");
}

void arrange_down_bias(Descriptor& d) { d.expert_bias = true; }

const Property kExpertsLinearityProperties[] = {
    {"P39",
     "linear_down",
     {Component::experts, Component::mlp},
     PropertyClass::bounded,
     "y is linear in the down projection and its bias",
     {"fused scale"},
     arrange_linear,
     linear_down},
    {"P39",
     "linear_up",
     {Component::experts, Component::mlp},
     PropertyClass::bounded,
     "y is linear in the up half of a gated activation without clamps",
     {"O9", "gate/up swapped", "fused scale"},
     arrange_linear_up,
     linear_up},
    {"P42",
     "linear_weights",
     {Component::experts},
     PropertyClass::bounded,
     "y is linear in the routing weights, whose gradient does not depend on them",
     {"weight applied twice", "weight not applied", "A27", "M24"},
     arrange_linear,
     linear_weights,
     Passes::either},
    {"P42",
     "exact_doubling",
     {Component::experts, Component::mlp},
     PropertyClass::exact,
     "y doubles to the bit with the down projection and with the routing weights",
     {"fused scale", "weight applied twice", "M24"},
     arrange_linear,
     exact_doubling,
     Passes::either,
     Needs::repeatable},
    {"P41",
     "down_bias",
     {Component::experts},
     PropertyClass::bounded,
     "the down bias contributes its sum weighted as the experts are",
     {"A27", "M24", "A46"},
     arrange_down_bias,
     down_bias,
     Passes::either},
};

}  // namespace

std::span<const Property> experts_linearity_properties() { return kExpertsLinearityProperties; }

}  // namespace moeref
