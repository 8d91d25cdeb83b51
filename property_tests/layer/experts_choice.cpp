// What must not depend on which experts are chosen: equal experts, and experts of no weight.
#include <algorithm>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Every expert's parameters are those of the first.
Call with_equal_experts(Call call, std::int64_t experts) {
  const std::vector<std::int64_t> first(static_cast<std::size_t>(experts), 0);
  for (const std::string_view tensor : kExpertTensors)
    take_in(call, expert_tensor(call.component, "params", tensor), 0, first);
  return call;
}

/// Equal experts: which of them are chosen does not matter, and one with the sum of the weights does the
/// same.
void identical_experts(Implementation& impl, const Descriptor& d, bool exact) {
  const Call call = with_equal_experts(full_call(impl, d), d.E);
  Call other = call;
  Call one = with_config(
      call,
      {{"n_routed_experts", 1}, {"n_activated_experts", 1}, {"n_expert_groups", 1}, {"n_limited_groups", 1}});
  one.options = options_of_products(call);
  const std::int64_t first[] = {0};
  for (const std::string_view tensor : kExpertTensors)
    take_in(one, expert_tensor(one.component, "params", tensor), 0, first);
  Tensor &mirrored = other.tensors.at("inputs/indices"), &id = one.tensors.at("inputs/indices");
  Tensor& weight = one.tensors.at("inputs/weights");
  const Tensor ids = mirrored, weights = weight;
  id = Tensor(DType::int64, {d.T, 1});
  weight = Tensor(weights.dtype(), {d.T, 1});
  for (std::int64_t t = 0; t < d.T; ++t) {
    double sum = 0.0;
    id.set(t, -1.0);
    for (std::int64_t i = t * d.k; i < (t + 1) * d.k; ++i) {
      if (ids[i] < 0.0) continue;
      mirrored.set(i, static_cast<double>(d.E - 1) - ids[i]);
      sum += weights[i];
      id.set(t, 0.0);
    }
    weight.set(t, sum);
  }
  const Answer a(impl, call), b(impl, other), c(impl, one);
  for (const char* rows : {"outputs/y", "grads/x", "grads/weights"}) {
    if (!call.backward && rows != std::string_view("outputs/y")) continue;
    constexpr std::string_view text = "experts are equal: other ones were chosen";
    exact ? expect_identical(b, a, rows, text) : expect_same(b, a, rows, text);
  }
  for (const char* rows : {"outputs/y", "grads/x"}) {
    if (!call.backward && rows != std::string_view("outputs/y")) continue;
    constexpr std::string_view text = "experts are equal: one took all the weight";
    exact ? expect_identical(c, a, rows, text) : expect_same(c, a, rows, text);
  }
}

void arrange_identical(Descriptor& d) { d.values = Values::exact; }
void arrange_identical_exact(Descriptor& d) { arrange_exact(d); }

/// A whole layer, with weights that sum to the route scale for every choice of experts.
void routing_irrelevant(Implementation& impl, const Descriptor& d) {
  const Call call = with_equal_experts(make_call(d), d.E);
  Call other = call;
  Tensor& ids = other.tensors.at("inputs/replay_indices");
  for (std::int64_t i = 0; i < ids.size(); ++i) ids.set(i, static_cast<double>(d.E - 1) - ids[i]);
  expect_same(Answer(impl, other), Answer(impl, call), "outputs/y",
              "experts are equal and weights normalised: other experts were chosen");
}

void arrange_irrelevant(Descriptor& d) {
  arrange_replayed_routing(d);
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::max<std::int64_t>(d.k, 2);
  d.norm = true;
  d.biased_weights = false;
  d.config.norm_eps = MoEConfig{}.norm_eps;  // weights sum to the scale where this is next to nothing
  // Beside scores as small as these it is not.
  if (d.logits == Logits::large) d.logits = Logits::levels;
}

/// Slots of weight 0 are slots without an expert, but for the gradient of their weight.
void one_hot_weight(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call zeros = call, absent = call;
  std::vector<bool> kept;
  for (std::int64_t i = 0; i < d.T * d.k; ++i) {
    const auto chosen = static_cast<std::int64_t>((d.seed + static_cast<std::uint64_t>(i / d.k)) %
                                                  static_cast<std::uint64_t>(d.k));
    kept.push_back(i % d.k == chosen);
    if (kept.back()) continue;
    zeros.tensors.at("inputs/weights").set(i, 0.0);
    absent.tensors.at("inputs/indices").set(i, -1.0);
  }
  const Answer a(impl, zeros), b(impl, absent);
  constexpr std::string_view text = "all weights of a token but one are 0: the others were left out";
  for (const auto& [name, tensor] : a.results()) {
    if (name.starts_with("stages/")) continue;
    if (name != "grads/weights") expect_same(b, a, name, text);
    for (std::int64_t i = 0; name == "grads/weights" && i < tensor.size(); ++i)
      if (kept[static_cast<std::size_t>(i)] && tensor[i] != b.at(name, i))
        expect_near(name, i, b.at(name, i), tensor[i], a.bound(name, i) + b.bound(name, i), text);
  }
}

const Property kExpertsChoiceProperties[] = {
    {"P43",
     "identical_experts",
     {Component::experts},
     PropertyClass::bounded,
     "equal experts can stand for one another, and one of them for all",
     {"lost token", "duplicated token", "M32"},
     arrange_identical,
     [](Implementation& impl, const Descriptor& d) { identical_experts(impl, d, false); },
     Passes::either},
    {"P43",
     "identical_experts_exact",
     {Component::experts},
     PropertyClass::exact,
     "equal experts can stand for one another, to the bit on exact data",
     {"lost token", "duplicated token", "M32"},
     arrange_identical_exact,
     // Sums of squares are no numbers of TF32.
     [](Implementation& impl, const Descriptor& d) {
       identical_experts(impl, d, d.products == Float32Products::float32);
     },
     Passes::either},
    {"P43",
     "routing_irrelevant",
     {Component::moe},
     PropertyClass::bounded,
     "a layer of equal experts with normalised weights does not depend on its routing",
     {"lost token", "A37", "O6"},
     arrange_irrelevant,
     routing_irrelevant},
    {"P44",
     "one_hot_weight",
     {Component::experts},
     PropertyClass::bounded,
     "with one weight other than 0 a token is that expert's alone",
     {"weight not applied", "A27"},
     nullptr,
     one_hot_weight,
     Passes::either},
};

}  // namespace

std::span<const Property> experts_choice_properties() { return kExpertsChoiceProperties; }

}  // namespace moeref
