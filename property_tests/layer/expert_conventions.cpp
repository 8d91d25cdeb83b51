// Rules of the routed experts that the documented system does not have (SPEC 10).
#include <algorithm>
#include <cmath>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Experts that get p x and a weight of 1.
void weight_on_input(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call scaled_before = call;
  Tensor &x = scaled_before.tensors.at("inputs/x"), &weights = scaled_before.tensors.at("inputs/weights");
  for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, x[i] * weights[i / d.D]);
  weights = filled(weights.dtype(), weights.shape(), 1.0);
  const Answer a(impl, call), b(impl, scaled_before);
  constexpr std::string_view text = "the routing weight multiplies the expert's input alone";
  for (const auto& [name, tensor] : a.results())
    if (!name.starts_with("stages/") && name != "grads/x" && name != "grads/weights")
      expect_same(a, b, name, text);
  if (!call.backward) return;
  const Tensor &before = call.tensors.at("inputs/x"), &p = call.tensors.at("inputs/weights");
  for (std::int64_t t = 0; t < d.T; ++t) {
    double want = 0.0, bound = 0.0;
    for (std::int64_t i = t * d.D; i < (t + 1) * d.D; ++i) {
      const double by_input = b.at("grads/x", i), error = b.bound("grads/x", i);
      want += before[i] * by_input;
      bound += std::abs(before[i]) * error;
      expect_near("grads/x", i, a.at("grads/x", i), p[t] * by_input, a.bound("grads/x", i) + p[t] * error,
                  text);
    }
    expect_near("grads/weights", t, a.at("grads/weights", t), want,
                a.bound("grads/weights", t) + bound + 1e-12 * std::abs(want),
                "the gradient of a weight on the input is that of p x, times x");
  }
}

/// One expert a token, and weights that are powers of two, so that p x is exact.
void arrange_weight_on_input(Descriptor& d) {
  d.config.router_weight_on_input = true;
  d.after_down = false;
  d.k = 1;
  d.values = Values::exact;
  d.poison = NonFinite::none;
}

/// The experts with parameters alone: slots of the others are null, as the documented system has them.
Call without_identity_experts(Call call) {
  const MoEConfig c = parse_moe_config(call.config);
  call.config["n_routed_experts"] = c.experts_with_weights();
  for (const char* field : {"n_identity_experts", "null_slots"}) call.config.erase(field);
  Tensor& ids = call.tensors.at("inputs/indices");
  for (std::int64_t& id : ids.as<std::int64_t>())
    if (id == c.null_id() || id >= c.experts_with_weights()) id = -1;
  return call;
}

bool returns_input(const Call& call, const MoEConfig& c, std::int64_t slot) {
  const double id = call.tensors.at("inputs/indices")[slot];
  return is_real(call, slot / c.n_activated_experts) && id >= static_cast<double>(c.experts_with_weights()) &&
         id < static_cast<double>(c.n_routed_experts);
}

/// y + p x, and gradients likewise.
void identity_experts(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const MoEConfig c = parse_moe_config(call.config);
  const Answer a(impl, call), b(impl, without_identity_experts(call));
  constexpr std::string_view text = "an expert without parameters returns its input times the weight";
  const Tensor &x = call.tensors.at("inputs/x"), &p = call.tensors.at("inputs/weights");
  const auto expect_added = [&](const char* name, const Tensor& row) {
    for (std::int64_t i = 0; i < d.T * d.D; ++i) {
      double want = b.at(name, i), magnitude = std::abs(want);
      for (std::int64_t slot = i / d.D * d.k; slot < (i / d.D + 1) * d.k; ++slot) {
        if (!returns_input(call, c, slot)) continue;
        want += p[slot] * row[i];
        magnitude += std::abs(p[slot] * row[i]);
      }
      expect_near(name, i, a.at(name, i), want, a.bound(name, i) + b.bound(name, i) + 1e-13 * magnitude,
                  text);
    }
  };
  expect_added("outputs/y", x);
  std::int64_t returned = 0;
  for (std::int64_t slot = 0; slot < d.T * d.k; ++slot) returned += returns_input(call, c, slot);
  if (returned == 0) throw Discarded("no slot is of an expert without parameters");
  if (!call.backward) return;
  const Tensor& dy = call.tensors.at("cotangents/y");
  expect_added("grads/x", dy);
  for (std::int64_t slot = 0; slot < d.T * d.k; ++slot) {
    double want = b.at("grads/weights", slot), magnitude = std::abs(want);
    for (std::int64_t i = slot / d.k * d.D; returns_input(call, c, slot) && i < (slot / d.k + 1) * d.D; ++i) {
      want += dy[i] * x[i];
      magnitude += std::abs(dy[i] * x[i]);
    }
    expect_near("grads/weights", slot, a.at("grads/weights", slot), want,
                a.bound("grads/weights", slot) + b.bound("grads/weights", slot) + 1e-13 * magnitude, text);
  }
  for (const auto& [name, tensor] : b.results())
    if (name.starts_with("grads/") && name != "grads/x" && name != "grads/weights")
      expect_same(a, b, name, "no parameter sees the slots of experts that have none");
}

/// Few experts, so that some slots are of those without parameters.
void arrange_identity_experts(Descriptor& d) {
  std::int64_t& identity = d.config.n_identity_experts;
  if (identity == 0) identity = 1 + static_cast<std::int64_t>(d.seed % 3);
  d.groups = d.limited = 1;
  d.E = std::clamp<std::int64_t>(d.E, identity + 1, 12);
  d.k = std::min(d.k, d.E - identity);
  d.T = std::max<std::int64_t>(d.T, 2);
  if (d.ids == Ids::rows) d.ids = Ids::distinct;
  d.rows = 0;
  d.poison = NonFinite::none;
}

const Property kExpertConventionProperties[] = {
    {"C7",
     "identity_experts",
     {Component::experts},
     PropertyClass::bounded,
     "the last n_identity_experts add p x to y and dy x to the weight's gradient, and nothing else",
     {"zero-computation experts dropped", "id past the last expert that has parameters"},
     arrange_identity_experts,
     identity_experts,
     Passes::either},
    {"C7",
     "weight_on_input",
     {Component::experts},
     PropertyClass::bounded,
     "under router_weight_on_input experts of weights p and x are experts of weight 1 and p x",
     {"weight not applied", "weight applied twice"},
     arrange_weight_on_input,
     weight_on_input,
     Passes::either},
};

}  // namespace

std::span<const Property> expert_convention_properties() { return kExpertConventionProperties; }

}  // namespace moeref
