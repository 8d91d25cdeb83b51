// Rules of the routed experts that the documented system does not have (SPEC 10).
#include <algorithm>

#include "property_tests/layer/layer_calls.hpp"
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

const Property kExpertConventionProperties[] = {
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
