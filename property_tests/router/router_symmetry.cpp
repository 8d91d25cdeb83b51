// What a router must not notice: the order of tokens and experts, a common shift of the logits, their scale.
#include <cmath>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Slot by slot the same experts, so that cotangents of slots mean the same on both sides.
bool same_slots(const Answer& a, std::int64_t ta, const Answer& b, std::int64_t tb,
                std::span<const std::int64_t> relabel = {}) {
  const std::vector<std::int64_t> left = ids_of(a, ta), right = ids_of(b, tb);
  for (std::size_t j = 0; j < left.size(); ++j)
    if (left[j] != (relabel.empty() ? right[j] : relabel[static_cast<std::size_t>(right[j])])) return false;
  return true;
}

void token_permutation(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::vector<std::int64_t> order = permutation(d.seed, d.T);
  Call moved = call;
  for (const char* rows : {"inputs/x", "inputs/token_mask", "inputs/replay_indices", "cotangents/weights"})
    take_in(moved, rows, 0, order);
  const Answer a(impl, call), b(impl, moved);
  constexpr std::string_view text = "tokens were permuted";
  const bool all = a.all_decided() && b.all_decided();
  std::int64_t compared = 0;
  bool slots_agree = true;
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::int64_t from = order[static_cast<std::size_t>(t)];
    if (!expect_same_routing(b, t, a, from, text)) continue;
    ++compared;
    const bool agree = same_slots(b, t, a, from);
    slots_agree = slots_agree && agree;
    // With an auxiliary loss a token's gradient depends on where the others went.
    if (agree && call.backward && (all || d.aux == 0.0)) expect_same_row(b, t, a, from, "grads/x", text);
  }
  require_some(compared, d.T);
  if (!all) return;
  expect_identical(a, b, "outputs/expert_load", text);
  if (a.has("outputs/aux_loss")) expect_same(a, b, "outputs/aux_loss", text);
  if (slots_agree && call.backward && !d.frozen) expect_same(a, b, "grads/weight", text);
}

/// New expert i is old expert order[i]; groups stay together.
std::vector<std::int64_t> expert_order(const Descriptor& d) {
  const std::int64_t size = d.E / d.groups;
  const std::vector<std::int64_t> groups = permutation(d.seed, d.groups);
  std::vector<std::int64_t> order;
  for (std::int64_t g = 0; g < d.groups; ++g)
    for (const std::int64_t member : permutation(d.seed + 1 + static_cast<std::uint64_t>(g), size))
      order.push_back(groups[static_cast<std::size_t>(g)] * size + member);
  return order;
}

void routing_permutation(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::vector<std::int64_t> order = expert_order(d);
  Call moved = call;
  for (const char* rows : {"params/weight", "params/bias", "params/e_score_correction_bias"})
    take_in(moved, rows, 0, order);
  const Answer a(impl, call), b(impl, moved);
  constexpr std::string_view text = "experts were permuted";
  const bool all = a.all_decided() && b.all_decided();
  std::int64_t compared = 0;
  bool slots_agree = true;
  for (std::int64_t t = 0; t < d.T; ++t) {
    if (!expect_same_routing(a, t, b, t, text, order)) continue;
    ++compared;
    const bool agree = same_slots(a, t, b, t, order);
    slots_agree = slots_agree && agree;
    if (agree && call.backward && (all || d.aux == 0.0)) expect_same_row(a, t, b, t, "grads/x", text);
  }
  require_some(compared, d.T);
  if (!all) return;
  for (std::int64_t e = 0; e < d.E; ++e) {
    expect_equal("outputs/expert_load", e, b.at("outputs/expert_load", e),
                 a.at("outputs/expert_load", order[static_cast<std::size_t>(e)]), text);
    if (slots_agree && call.backward && !d.frozen)
      expect_same_row(b, e, a, order[static_cast<std::size_t>(e)], "grads/weight", text);
  }
  if (a.has("outputs/aux_loss")) expect_same(a, b, "outputs/aux_loss", text);
}

void shift(Call& call, double by) {
  Tensor& bias = call.tensors.at("params/bias");
  for (std::int64_t e = 0; e < bias.size(); ++e) bias.set(e, bias[e] + by);
}

void expect_shift_unseen(Implementation& impl, const Descriptor& d, double by, std::string_view text) {
  const Call call = make_call(d);
  Call moved = call;
  shift(moved, by);
  const Answer a(impl, call), b(impl, moved);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) {
    for (const Slot& slot : slots_of(b, t))
      if (!std::isfinite(slot.weight))
        fail({"outputs/weights", slot.index, slot.weight, 0.0, 0.0, std::string(text) + ": not finite"});
    compared += expect_same_routing(b, t, a, t, text);
  }
  require_some(compared, d.T);
  if (a.has("outputs/aux_loss") && a.all_decided() && b.all_decided())
    expect_same(b, a, "outputs/aux_loss", text);
}

void arrange_shift(Descriptor& d) {
  if (d.score != ScoreFunc::softmax_with_bias) d.score = ScoreFunc::softmax;
  d.router_bias = true;
}

void logit_shift(Implementation& impl, const Descriptor& d) {
  expect_shift_unseen(impl, d, 4.0, "4 was added to every logit");
}

void large_shift(Implementation& impl, const Descriptor& d) {
  expect_shift_unseen(impl, d, 1e4, "10000 was added to every logit");
  expect_shift_unseen(impl, d, -1e4, "10000 was taken from every logit");
}

void arrange_large_shift(Descriptor& d) {
  arrange_shift(d);
  // 1e4 + 1/16 is a number in these.
  d.widen();
  if (d.logits != Logits::skewed) d.logits = Logits::levels;
}

void scale_logits(Call& call, double factor) {
  for (const char* name : {"params/weight", "params/bias"})
    if (const auto found = call.tensors.find(name); found != call.tensors.end())
      found->second = scaled(found->second, factor);
}

void temperature(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call hotter = call, negated = call;
  scale_logits(hotter, 2.0);
  scale_logits(negated, -1.0);
  const Answer b(impl, hotter), c(impl, negated);
  const Matrix top = logits_of(call);
  Matrix bottom = top;
  for (double& z : bottom.values) z = -z;
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) {
    compared +=
        expect_selected(b, t, largest(top, t, d.k), "logits were doubled: the same experts are the largest");
    compared +=
        expect_selected(c, t, largest(bottom, t, d.k), "logits were negated: the smallest are the largest");
  }
  require_some(compared, d.T);
}

const Property kRouterSymmetryProperties[] = {
    {"P1",
     "token_permutation",
     {Component::gate},
     PropertyClass::exact,
     "permuted tokens are routed as before: experts, weights, load, loss and gradients",
     {"A51", "M20", "two tokens swapped", "shared-memory race"},
     nullptr,
     token_permutation,
     Passes::either},
    {"P2",
     "expert_permutation",
     {Component::gate},
     PropertyClass::bounded,
     "permuted experts are relabelled, group by group, and nothing else changes",
     {"O29", "hard-coded ids", "group layout"},
     nullptr,
     routing_permutation,
     Passes::either},
    {"P3",
     "logit_shift",
     {Component::gate},
     PropertyClass::bounded,
     "softmax does not notice a number added to every logit",
     {"A6", "maximum not subtracted"},
     arrange_shift,
     logit_shift},
    {"P4",
     "large_logit_shift",
     {Component::gate},
     PropertyClass::bounded,
     "softmax of logits around +-10000 is finite and the same",
     {"maximum not subtracted", "O5"},
     arrange_large_shift,
     large_shift},
    {"P19",
     "temperature",
     {Component::gate},
     PropertyClass::exact,
     "scaled logits select the same experts, negated ones the opposite",
     {"absolute value in top-k", "O5"},
     arrange_plain,
     temperature},
};

}  // namespace

std::span<const Property> router_symmetry_properties() { return kRouterSymmetryProperties; }

}  // namespace moeref
