// Experts and MLPs that were wrong in public.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

NamedTensors limit_in_the_wrong_field(Implementation& sound, const Call& call) {
  if (!gives_y(call) || call.config.value("swiglu_limit", 0.0) == 0.0) return sound.run(call);
  return sound.run(with_config(call, {{"swiglu_limit", 0.0}}));
}

bool clamped_swiglu(const MoEConfig& c) {
  return c.expert_activation == ActivationKind::swiglu && c.swiglu_limit > 0.0;
}
NamedTensors clamped_after_silu(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    if (!clamped_swiglu(c)) return activation_value(c, g, u);
    return std::min(g * plain_sigmoid(g), c.swiglu_limit) * std::clamp(u, -c.swiglu_limit, c.swiglu_limit);
  };
  return with_parts(sound, call, parts);
}

/// Slots of expert 0 in tokens that have an absent slot.
NamedTensors absent_slot_clears_expert_0(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::int64_t k = ids.extent(1);
  return sound.run(with_slots_lost(call, [&](std::int64_t i) {
    bool absent = false;
    for (std::int64_t s = i / k * k; s < (i / k + 1) * k; ++s) absent = absent || ids[s] < 0.0;
    return ids[i] == 0.0 && absent;
  }));
}

bool has_live_slot(const Call& call, const NamedTensors& results) {
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids) ids = find(results, "outputs/indices");
  for (std::int64_t i = 0; ids && i < ids->size(); ++i)
    if ((*ids)[i] >= 0.0 && is_live(call, i / ids->extent(1))) return true;
  return false;
}

NamedTensors no_gradient_without_tokens(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (has_experts(call) && call.backward && !has_live_slot(call, out))
    for (const char* tensor : {"gate_and_up_projs", "down_projs"})
      out.erase(expert_tensor(call.component, "grads", tensor));
  return out;
}

/// The j-th expert that has rows is computed with the weights of expert j.
NamedTensors empty_groups_not_counted(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const std::int64_t experts = size(call, "n_routed_experts");
  const Tensor& ids = call.tensors.at("inputs/indices");
  std::vector<bool> has_rows(static_cast<std::size_t>(experts));
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && is_live(call, i / ids.extent(1))) has_rows[static_cast<std::size_t>(ids[i])] = true;
  IdList order(static_cast<std::size_t>(experts));
  std::int64_t group = 0;
  for (std::size_t e = 0; e < order.size(); ++e)
    order[e] = has_rows[e] ? group++ : static_cast<std::int64_t>(e);
  Call other = call;
  for (const std::string_view tensor : kExpertTensors)
    take_in(other, expert_tensor(call.component, "params", tensor), 0, order);
  return with_results_of(sound, call, other, "outputs/y");
}

NamedTensors weight_on_the_input(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  Call forward = call;
  forward.backward = false;
  NamedTensors out = sound.run(call);
  add_difference(out, plain_experts(forward, {.weight_on_input = true}), plain_experts(forward, {}),
                 {"outputs/y"});
  return out;
}

NamedTensors odd_blocks_of_16_columns(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call)) return out;
  const Tensor y = out.at("outputs/y");
  const std::int64_t columns = y.shape().back();
  change_rows(out, "outputs/y", [&](std::int64_t row, std::int64_t c, double v) {
    return c / 16 % 2 == 1 ? y[row * columns + c - 16] : v;
  });
  return out;
}

/// The call with absent slots given to the last expert.
Call absent_as_last(Call call) {
  map_input(call, "inputs/indices",
            [last = static_cast<double>(size(call, "n_routed_experts") - 1)](std::int64_t, double id) {
              return id < 0.0 ? last : id;
            });
  return call;
}
NamedTensors absent_slots_have_weight_gradient(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || !call.backward) return sound.run(call);
  return with_results_of(sound, call, absent_as_last(call), "grads/weights");
}
NamedTensors absent_rows_feed_weight_gradient(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || !call.backward) return sound.run(call);
  return with_results_of(sound, call, absent_as_last(call), "grads/down_projs");
}

NamedTensors experts_sorted_as_words(Implementation& sound, const Call& call) {
  if (!has_experts(call)) return sound.run(call);
  IdList order(static_cast<std::size_t>(size(call, "n_routed_experts")));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [](std::int64_t e) { return std::to_string(e); });
  Call other = call;
  for (const std::string_view tensor : kExpertTensors)
    take_in(other, expert_tensor(call.component, "params", tensor), 0, order);
  return sound.run(other);
}

NamedTensors one_token_squeezed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call)) return out;
  Tensor& y = out.at("outputs/y");
  if (y.shape().size() == 2 && y.extent(0) == 1) y = y.reshaped({y.extent(1)});
  return out;
}

NamedTensors square_rounded_before_weight(Implementation& sound, const Call& call) {
  if (!gives_y(call) || dtype_of(call) != DType::bfloat16) return sound.run(call);
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    const double a = activation_value(c, g, u);
    return c.expert_activation == ActivationKind::relu2 ? round_to(DType::bfloat16, a) : a;
  };
  return with_parts(sound, call, parts);
}

NamedTensors weight_never_after_down(Implementation& sound, const Call& call) {
  if (!has_experts(call)) return sound.run(call);
  return sound.run(with_config(call, {{"apply_router_weight_after_down", false}}));
}

NamedTensors alpha_fixed(Implementation& sound, const Call& call) {
  return has_experts(call) ? sound.run(with_config(call, {{"activation_alpha", 1.702}})) : sound.run(call);
}
NamedTensors limit_fixed(Implementation& sound, const Call& call) {
  return has_experts(call) ? sound.run(with_config(call, {{"activation_limit", 7.0}})) : sound.run(call);
}

NamedTensors one_not_added_to_up(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    const bool adds = c.expert_activation == ActivationKind::swigluoai ||
                      c.expert_activation == ActivationKind::quick_geglu;
    return activation_value(c, g, adds ? std::clamp(u, -1e30, 1e30) - 1.0 : u);
  };
  return with_parts(sound, call, parts);
}
NamedTensors relu_not_squared(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    return c.expert_activation == ActivationKind::relu2 ? std::max(u, 0.0) : activation_value(c, g, u);
  };
  return with_parts(sound, call, parts);
}
NamedTensors swiglu_taken_for_geglu(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    if (c.expert_activation != ActivationKind::swiglu) return activation_value(c, g, u);
    MoEConfig other = c;
    other.expert_activation = ActivationKind::geglu;
    return activation_value(other, g, u);
  };
  return with_parts(sound, call, parts);
}
NamedTensors gate_clamped_on_both_sides(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    const double limit = c.expert_activation == ActivationKind::swiglu ? c.swiglu_limit : c.activation_limit;
    const bool clamps = facts(c.expert_activation).clamp != ClampField::none && limit > 0.0;
    return activation_value(c, clamps ? std::max(g, -limit) : g, u);
  };
  return with_parts(sound, call, parts);
}

NamedTensors odd_slot_lost(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const std::int64_t k = size(call, "n_activated_experts");
  return sound.run(
      with_slots_lost(call, [&](std::int64_t i) { return k > 1 && k % 2 == 1 && i % k == k - 1; }));
}

constexpr std::string_view kParameterGrads =
    "grads/down_projs grads/gate_and_up_projs grads/experts.down_projs grads/experts.gate_and_up_projs";

const Mutant kExpertsCatalogueMutants[] = {
    {"limit_in_the_wrong_field",
     "A33",
     "NeMo AutoModel 717071295",
     {C::experts, C::mlp, C::moe},
     "the limit of swiglu is written into a field that swiglu does not read",
     "F",
     "outputs/y",
     "activation_values",
     limit_in_the_wrong_field},
    {"clamped_after_silu",
     "A34",
     "NeMo AutoModel 380b52b5a",
     {C::experts, C::mlp},
     "the gate is clamped behind SiLU in place of before",
     "F",
     "outputs/y",
     "activation_values",
     clamped_after_silu},
    {"absent_slot_clears_expert_0",
     "A45",
     "NeMo AutoModel #2152",
     {C::experts},
     "absent slots are scattered as a false for expert 0, which clears a true one",
     "F",
     "outputs/y",
     "every_slot_once",
     absent_slot_clears_expert_0},
    {"no_gradient_without_tokens",
     "A26",
     "NeMo AutoModel #2995",
     {C::experts, C::moe},
     "without a routed token parameters have no gradient in place of one that is 0",
     "G",
     kParameterGrads,
     "edges",
     no_gradient_without_tokens},
    {"empty_groups_not_counted",
     "",
     "Megatron-LM eef48ef31c",
     {C::experts},
     "groups without rows are left out of the grouped product, and later ones meet the weights of another "
     "expert",
     "F",
     "outputs/y",
     "zero_token_expert",
     empty_groups_not_counted},
    {"weight_on_the_input",
     "O13",
     "transformers #40609",
     {C::experts},
     "the routing weight multiplies the expert's input in place of its activation",
     "F",
     "outputs/y",
     "linear_weights",
     weight_on_the_input},
    {"odd_blocks_of_16_columns",
     "O11",
     "sonic-moe #63",
     {C::experts, C::mlp, C::moe},
     "every second block of 16 columns holds the block before it",
     "F",
     "outputs/y",
     "within_bounds",
     odd_blocks_of_16_columns},
    {"absent_slots_have_weight_gradient",
     "O17",
     "transformers #48687",
     {C::experts},
     "absent slots keep the output of an expert, hidden by a weight of 0, and their weights have a gradient",
     "G",
     "grads/weights",
     "absent_slots",
     absent_slots_have_weight_gradient},
    {"absent_rows_feed_weight_gradient",
     "",
     "torchtitan #1237",
     {C::experts},
     "rows past the last real one feed the last expert's weight gradient",
     "G",
     "grads/down_projs",
     "absent_slots",
     absent_rows_feed_weight_gradient},
    {"experts_sorted_as_words",
     "O23",
     "torchtitan #1918",
     {C::experts, C::moe},
     "experts are loaded in the order of their ids as words: 10 before 2",
     "F",
     "outputs/y",
     "within_bounds",
     experts_sorted_as_words},
    {"one_token_squeezed",
     "O32",
     "megablocks eadae42",
     {C::experts, C::mlp, C::moe},
     "an axis of one token is taken away",
     "F",
     "outputs/y",
     "edges",
     one_token_squeezed},
    {"square_rounded_before_weight",
     "M29",
     "Megatron-LM #7562",
     {C::experts},
     "the squared ReLU is rounded to bfloat16 before the weight multiplies it",
     "P",
     "outputs/y",
     "",
     square_rounded_before_weight,
     nullptr,
     "",
     "where an activation is rounded in bfloat16 is left open (SPEC 5), and the bound has that rounding"},
    {"weight_never_after_down",
     "A29",
     "NeMo AutoModel 8859d3ca1",
     {C::experts, C::moe},
     "the weight multiplies before the down projection where the config wants it after",
     "P",
     "outputs/y",
     "",
     weight_never_after_down,
     nullptr,
     "",
     "the down projection is linear: the exact value is the same, and intermediate roundings are left open "
     "(SPEC 5)"},
    {"alpha_fixed",
     "",
     "",
     {C::experts, C::moe},
     "alpha is 1.702 whatever the config says",
     "F",
     "outputs/y",
     "",
     alpha_fixed},
    {"limit_fixed",
     "",
     "",
     {C::experts, C::moe},
     "the clamp is at 7 whatever the config says",
     "F",
     "outputs/y",
     "activation_values",
     limit_fixed},
    {"one_not_added_to_up",
     "O10",
     "SGLang #39032",
     {C::experts},
     "one backend leaves out the 1 that is added to up",
     "F",
     "outputs/y",
     "activation_values",
     one_not_added_to_up},
    {"relu_not_squared",
     "",
     "",
     {C::experts, C::mlp},
     "relu2 is not squared",
     "F",
     "outputs/y",
     "activation_values",
     relu_not_squared},
    {"swiglu_taken_for_geglu",
     "",
     "",
     {C::experts, C::mlp},
     "swiglu is computed as geglu",
     "F",
     "outputs/y grads/weights",
     "activation_values",
     swiglu_taken_for_geglu},
    {"gate_clamped_on_both_sides",
     "",
     "",
     {C::experts, C::mlp},
     "the gate is clamped from below, too, as up is",
     "F",
     "outputs/y",
     "activation_values",
     gate_clamped_on_both_sides},
    {"odd_slot_lost",
     "",
     "",
     {C::experts},
     "slots are added in pairs: of an odd number the last is lost",
     "F",
     "outputs/y",
     "every_slot_once",
     odd_slot_lost},
};

}  // namespace

std::span<const Mutant> experts_catalogue_mutants() { return kExpertsCatalogueMutants; }

}  // namespace moeref
