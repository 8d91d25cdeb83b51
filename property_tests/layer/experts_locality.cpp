// Tokens do not know of each other, nor experts of each other's tokens.
#include <algorithm>
#include <cmath>
#include <limits>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// The rows of a token in x, weights and cotangent changed.
void change_token(Call& call, std::int64_t token) {
  for (const char* rows : {"inputs/x", "inputs/weights", "cotangents/y"}) {
    const auto found = call.tensors.find(rows);
    if (found != call.tensors.end()) change_slice(found->second, token, [](double v) { return 1.5 - v; });
  }
}

/// Other tokens' rows and the gradients of experts that do not meet the token are those of `before`.
void expect_contained(const Answer& after, const Answer& before, const Descriptor& d, std::int64_t token,
                      std::string_view text) {
  const auto others = [&](std::int64_t t) { return t != token; };
  for (const char* rows : {"outputs/y", "grads/x", "grads/weights"})
    expect_rows(after, before, rows, text, others);
  if (d.component == Component::mlp) return;
  const std::vector<std::int64_t> ids = live_ids(before);
  for (const std::string_view tensor : kExpertTensors)
    expect_rows(after, before, expert_tensor(d.component, "grads", tensor), text,
                [&](std::int64_t e) { return !meets(ids, d.k, token, e); });
}

void token_locality(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call moved = call;
  const auto token = static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.T));
  change_token(moved, token);
  expect_contained(Answer(impl, moved), Answer(impl, call), d, token, "another token was changed");
}

/// The auxiliary loss is what tokens do share: it is left out.
void arrange_local(Descriptor& d) {
  arrange_given_routing(d);
  d.aux = 0.0;
  d.T = std::max<std::int64_t>(d.T, 2);
}

void token_poison(Implementation& impl, const Descriptor& d) {
  Descriptor clean = d;
  clean.poison = NonFinite::none;
  expect_contained(Answer(impl, full_call(impl, d)), Answer(impl, full_call(impl, clean)), d, d.T / 2,
                   "another token holds a value that is not finite");
}

void arrange_poison(Descriptor& d) {
  arrange_local(d);
  if (d.poison == NonFinite::none) d.poison = d.seed % 2 == 0 ? NonFinite::nan : NonFinite::infinity;
}

/// All parameters of one expert changed: tokens and experts that do not meet it notice nothing.
void expert_changed(Implementation& impl, const Descriptor& d, double (*change)(double),
                    std::string_view text) {
  const Call call = full_call(impl, d);
  Call moved = call;
  const auto expert = static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.E));
  change_expert(moved, expert, change);
  const Answer a(impl, call), b(impl, moved);
  const std::vector<std::int64_t> ids = live_ids(a);
  const auto apart = [&](std::int64_t t) { return !meets(ids, d.k, t, expert); };
  for (const char* rows : {"outputs/y", "grads/x"}) expect_rows(b, a, rows, text, apart);
  if (a.has("grads/weights"))
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto slot = static_cast<std::int64_t>(i);
      const double value = b.at("grads/weights", slot), expected = a.at("grads/weights", slot);
      if (ids[i] != expert && value != expected)
        expect_near("grads/weights", slot, value, expected,
                    a.bound("grads/weights", slot) + b.bound("grads/weights", slot), text);
    }
  for (const std::string_view tensor : kExpertTensors)
    expect_rows(b, a, expert_tensor(d.component, "grads", tensor), text,
                [&](std::int64_t e) { return e != expert; });
}

void expert_locality(Implementation& impl, const Descriptor& d) {
  expert_changed(
      impl, d, [](double v) { return 1.5 - v; }, "another expert was changed");
}

void expert_poison(Implementation& impl, const Descriptor& d) {
  expert_changed(
      impl, d, [](double) { return std::numeric_limits<double>::quiet_NaN(); }, "another expert holds NaN");
}

/// With a latent size what experts give a token is spread by fc2 over parameter gradients, not over tokens.
void arrange_experts(Descriptor& d) {
  arrange_local(d);
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::min(d.k, d.E - 1);
}

const Property kExpertsLocalityProperties[] = {
    {"P38",
     "token_locality",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "changing a token changes its own rows, and gradients of its own experts",
     {"cross-talk", "O37"},
     arrange_local,
     token_locality,
     Passes::either},
    {"P38",
     "token_poison",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "NaN or infinity in one token stays in its rows and its experts' gradients",
     {"A23"},
     arrange_poison,
     token_poison,
     Passes::either},
    {"P38",
     "expert_locality",
     {Component::experts, Component::moe},
     PropertyClass::bounded,
     "changing an expert changes nothing of tokens that do not meet it",
     {"group offsets", "O16"},
     arrange_experts,
     expert_locality,
     Passes::either},
    {"P38",
     "expert_poison",
     {Component::experts, Component::moe},
     PropertyClass::bounded,
     "NaN in an expert reaches its own tokens only",
     {"A23", "zero weight times NaN"},
     arrange_experts,
     expert_poison,
     Passes::either},
};

}  // namespace

std::span<const Property> experts_locality_properties() { return kExpertsLocalityProperties; }

}  // namespace moeref
