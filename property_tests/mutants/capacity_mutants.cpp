// Ports that drop slots wrongly (SPEC 10).
#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

const std::string kDispatched = "outputs/dispatched_indices";

bool drops(const Call& call) {
  return is_one_of(call, {Component::gate, Component::moe}) && parse_moe_config(call.config).drops_slots();
}

Call without_limit(Call call) {
  for (const char* limit :
       {"capacity_factor", "expert_capacity", "min_capacity", "capacity_order", "norm_after_dropping"})
    call.config.erase(limit);
  return call;
}

NamedTensors capacity_ignored(Implementation& sound, const Call& call) {
  if (!drops(call)) return sound.run(call);
  NamedTensors out = sound.run(without_limit(call));
  out[kDispatched] = out.at("outputs/indices");
  return out;
}

/// The call with the capacity that `of(k T / E * factor before it is rounded, config, tokens)` gives.
NamedTensors with_capacity(Implementation& sound, const Call& call,
                           double (*of)(double share, const MoEConfig& config)) {
  if (!drops(call)) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  const Shape& x = call.tensors.at("inputs/x").shape();
  const auto tokens = static_cast<double>(element_count(x) / x.back());
  if (c.capacity_factor == 0.0 || context_ranks_of(call) > 1 || expert_ranks_of(call) > 1)
    return sound.run(call);
  const double share = tokens * static_cast<double>(c.n_activated_experts) /
                       static_cast<double>(c.n_routed_experts) * c.capacity_factor;
  const auto capacity = static_cast<std::int64_t>(of(share, c));
  if (capacity < 1) return sound.run(call);
  Call other = with_config(call, {{"expert_capacity", capacity}});
  other.config.erase("capacity_factor");
  return sound.run(other);
}

NamedTensors capacity_rounds_down(Implementation& sound, const Call& call) {
  return with_capacity(sound, call, [](double share, const MoEConfig&) { return std::floor(share); });
}

NamedTensors capacity_of_tokens_alone(Implementation& sound, const Call& call) {
  return with_capacity(sound, call, [](double share, const MoEConfig& c) {
    return std::ceil(share / static_cast<double>(c.n_activated_experts));
  });
}

NamedTensors with_order(Implementation& sound, const Call& call, std::string_view from, std::string_view to) {
  if (!drops(call) || call.config.value("capacity_order", "token") != from) return sound.run(call);
  return sound.run(with_config(call, {{"capacity_order", to}}));
}

NamedTensors drops_by_token_for_choice(Implementation& sound, const Call& call) {
  return with_order(sound, call, "choice", "token");
}

NamedTensors drops_by_token_for_weight(Implementation& sound, const Call& call) {
  return with_order(sound, call, "weight", "token");
}

NamedTensors drops_by_weight_for_token(Implementation& sound, const Call& call) {
  return with_order(sound, call, "token", "weight");
}

/// All slots of the last tokens are kept.
NamedTensors drops_first_tokens(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!drops(call) || !is(call, Component::gate) || call.config.contains("capacity_order") ||
      context_ranks_of(call) > 1)
    return out;
  const MoEConfig c = parse_moe_config(call.config);
  const NamedTensors all = sound.run(without_limit(call));
  const Tensor ids = out.at("outputs/indices");
  std::vector<std::int64_t> room(static_cast<std::size_t>(c.n_routed_experts), c.capacity(ids.extent(0)));
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  for (std::int64_t slot = ids.size(); slot-- > 0;) {
    if (mask && (*mask)[slot / c.n_activated_experts] == 0.0) continue;
    std::int64_t& left = room[static_cast<std::size_t>(ids[slot])];
    const bool kept = left-- > 0;
    out.at(kDispatched).set(slot, kept ? ids[slot] : static_cast<double>(c.null_id()));
    out.at("outputs/weights").set(slot, kept ? all.at("outputs/weights")[slot] : 0.0);
  }
  return out;
}

NamedTensors padding_takes_room(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!drops(call) || !is(call, Component::gate)) return out;
  const NamedTensors open = sound.run(with_live(call, [](std::int64_t) { return true; }));
  out[kDispatched] = open.at(kDispatched);
  out["outputs/weights"] = open.at("outputs/weights");
  return out;
}

/// The slots are dropped where the experts are, behind a gate that has weighed all of them.
NamedTensors dropped_slots_keep_weights(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (drops(call) && is(call, Component::gate))
    out["outputs/weights"] = sound.run(without_limit(call)).at("outputs/weights");
  return out;
}

NamedTensors load_after_dropping(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!drops(call) || !is(call, Component::gate)) return out;
  const std::int64_t k = size(call, "n_activated_experts");
  Tensor& load = out.at("outputs/expert_load");
  const Tensor &kept = out.at(kDispatched), &ids = out.at("outputs/indices");
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  for (std::int64_t slot = 0; slot < ids.size(); ++slot) {
    const auto id = static_cast<std::int64_t>(ids[slot]);
    if (kept[slot] != ids[slot] && (!mask || (*mask)[slot / k] != 0.0)) load.set(id, load[id] - 1.0);
  }
  return out;
}

NamedTensors dropped_slots_have_gradients(Implementation& sound, const Call& call) {
  if (!drops(call) || !is(call, Component::gate) || parse_moe_config(call.config).divides_after_dropping())
    return sound.run(call);
  return with_results_of(sound, call, without_limit(call), "grads/");
}

NamedTensors divided_before_dropping(Implementation& sound, const Call& call) {
  if (!drops(call) || !call.config.contains("norm_after_dropping")) return sound.run(call);
  Call other = call;
  other.config.erase("norm_after_dropping");
  return sound.run(other);
}

NamedTensors divided_after_dropping_anyway(Implementation& sound, const Call& call) {
  return drops(call) ? sound.run(with_config(call, {{"norm_after_dropping", true}})) : sound.run(call);
}

/// The experts choose tokens by these numbers [T, E], and weigh them as before.
NamedTensors with_expert_choice(Implementation& sound, const Call& call, Matrix (*by)(const Call& call),
                                bool weighs = false) {
  NamedTensors out = sound.run(call);
  if (!drops(call) || !is(call, Component::gate) || context_ranks_of(call) > 1) return out;
  const MoEConfig c = parse_moe_config(call.config);
  if (c.n_activated_experts != c.n_routed_experts || c.capacity_order != CapacityOrder::weight) return out;
  const Matrix by_token = by(call);
  const Tensor ids = out.at("outputs/indices"), all = sound.run(without_limit(call)).at("outputs/weights");
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  Tensor &kept = out.at(kDispatched), &weights = out.at("outputs/weights");
  const std::int64_t tokens = by_token.rows, capacity = c.capacity(tokens);
  for (std::int64_t e = 0; e < c.n_routed_experts; ++e) {
    std::vector<std::int64_t> line;
    for (std::int64_t t = 0; t < tokens; ++t)
      if (!mask || (*mask)[t] != 0.0) line.push_back(t);
    std::ranges::stable_sort(
        line, [&](std::int64_t a, std::int64_t b) { return by_token.at(a, e) > by_token.at(b, e); });
    for (std::size_t place = 0; place < line.size(); ++place)
      for (std::int64_t slot = line[place] * c.n_routed_experts;
           slot < (line[place] + 1) * c.n_routed_experts; ++slot) {
        if (ids[slot] != static_cast<double>(e)) continue;
        const bool takes = static_cast<std::int64_t>(place) < capacity;
        kept.set(slot, static_cast<double>(takes ? e : c.null_id()));
        weights.set(slot, !takes ? 0.0 : weighs ? by_token.at(line[place], e) * c.route_scale : all[slot]);
      }
  }
  return out;
}

NamedTensors experts_choose_by_logits(Implementation& sound, const Call& call) {
  return with_expert_choice(sound, call, logits_of);
}

NamedTensors experts_choose_by_softmax_over_tokens(Implementation& sound, const Call& call) {
  if (score_of(call) != ScoreFunc::softmax) return sound.run(call);
  constexpr auto by = [](const Call& of) {
    Matrix z = logits_of(of);
    for (std::int64_t e = 0; e < z.cols; ++e) {
      double top = -INFINITY, sum = 0.0;
      for (std::int64_t t = 0; t < z.rows; ++t) top = std::max(top, z.at(t, e));
      for (std::int64_t t = 0; t < z.rows; ++t) sum += z.at(t, e) = std::exp(z.at(t, e) - top);
      for (std::int64_t t = 0; t < z.rows; ++t) z.at(t, e) /= sum;
    }
    return z;
  };
  return with_expert_choice(sound, call, by, true);
}

NamedTensors ranks_share_capacity(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!drops(call) || !is(call, Component::gate) || context_ranks_of(call) == 1) return out;
  Call one = call;
  for (const char* option : {"cp_size", "tokens_per_rank"}) one.options.erase(option);
  const NamedTensors whole = sound.run(one);
  for (const std::string& name : {kDispatched, std::string("outputs/weights")}) out[name] = whole.at(name);
  return out;
}

}  // namespace

std::span<const Mutant> capacity_mutants() {
  constexpr std::string_view kWhere = "outputs/dispatched_indices outputs/weights outputs/y";
  static const std::vector<Mutant> kRows{
      {.name = "capacity_ignored",
       .components = {Component::gate},
       .does = "no slot is ever dropped",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = capacity_ignored},
      {.name = "capacity_rounds_down",
       .components = {Component::gate},
       .does = "the capacity is rounded down",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = capacity_rounds_down},
      {.name = "capacity_of_tokens_alone",
       .source = "GShard's factor is of T / E, Megatron-Core's of k T / E",
       .components = {Component::gate},
       .does = "the capacity is factor T / E, without k",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = capacity_of_tokens_alone},
      {.name = "drops_by_token_for_choice",
       .components = {Component::gate},
       .does = "second choices of early tokens are kept before first ones of late tokens",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = drops_by_token_for_choice},
      {.name = "drops_by_token_for_weight",
       .components = {Component::gate},
       .does = "the first tokens are kept where the largest weights should be",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = drops_by_token_for_weight},
      {.name = "drops_by_weight_for_token",
       .components = {Component::gate},
       .does = "the largest weights are kept where the first tokens should be",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = drops_by_weight_for_token},
      {.name = "drops_first_tokens",
       .components = {Component::gate},
       .does = "a full expert keeps its last tokens",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = drops_first_tokens},
      {.name = "padding_takes_room",
       .components = {Component::gate},
       .does = "masked tokens take room, and their slots are dropped",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = padding_takes_room},
      {.name = "dropped_slots_keep_weights",
       .components = {Component::gate},
       .does = "the gate weighs slots that it drops",
       .first_wrong = "outputs/weights",
       .property = "dropped_slots",
       .run = dropped_slots_keep_weights},
      {.name = "load_after_dropping",
       .components = {Component::gate},
       .does = "the load counts the slots that are kept",
       .first_wrong = "outputs/expert_load",
       .property = "dropped_slots",
       .run = load_after_dropping},
      {.name = "dropped_slots_have_gradients",
       .components = {Component::gate},
       .does = "the cotangent of a dropped slot reaches the gate",
       .shows = "G",
       .first_wrong = "grads/x grads/weight grads/bias",
       .property = "dropped_slots",
       .run = dropped_slots_have_gradients},
      {.name = "divided_before_dropping",
       .source = "Megatron-Core divides before it drops, DeepSpeed after",
       .components = {Component::gate},
       .does = "weights are divided by the sum over all k slots",
       .first_wrong = kWhere,
       .property = "divided_after_dropping",
       .run = divided_before_dropping},
      {.name = "divided_after_dropping_anyway",
       .components = {Component::gate},
       .does = "weights are divided by the sum over the kept slots without being asked to",
       .first_wrong = kWhere,
       .property = "dropped_slots",
       .run = divided_after_dropping_anyway},
      {.name = "experts_choose_by_logits",
       .source = "the softmax of expert choice is over experts, whose order among tokens is another one",
       .components = {Component::gate},
       .does = "experts that choose tokens order them by logits",
       .first_wrong = kWhere,
       .property = "expert_choice",
       .run = experts_choose_by_logits},
      {.name = "experts_choose_by_softmax_over_tokens",
       .components = {Component::gate},
       .does = "where experts choose tokens the softmax runs over tokens",
       .first_wrong = kWhere,
       .property = "expert_choice",
       .run = experts_choose_by_softmax_over_tokens},
      {.name = "ranks_share_capacity",
       .components = {Component::gate},
       .does = "ranks drop as if they were one",
       .shows = "R",
       .first_wrong = kWhere,
       .property = "capacity_order",
       .run = ranks_share_capacity},
  };
  return kRows;
}

}  // namespace moeref
