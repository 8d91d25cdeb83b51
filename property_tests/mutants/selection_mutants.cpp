// Gates that choose wrong experts in ways that two calls side by side show.
#include <algorithm>
#include <cmath>
#include <limits>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

/// Whether the largest logits are what the gate selects, whatever the score function.
bool selects_logits(const Call& call) {
  return is(call, Component::gate) && size(call, "n_expert_groups") == 1 &&
         !call.tensors.contains("inputs/replay_indices") &&
         !call.tensors.contains("params/e_score_correction_bias");
}

/// The sound results on the experts of the largest numbers that `change` makes of a token's logits.
template <typename Change>
NamedTensors selects_changed(Implementation& sound, const Call& call, Change&& change) {
  Matrix z = logits_of(call);
  std::vector<std::int64_t> ids;
  const std::int64_t k = size(call, "n_activated_experts");
  for (std::int64_t t = 0; t < z.rows; ++t) {
    change(z, t);
    for (const std::int64_t id : largest(z, t, k)) ids.push_back(id);
  }
  Call replayed = call;
  replayed.tensors["inputs/replay_indices"] = Tensor::of({z.rows, k}, ids);
  return sound.run(replayed);
}

NamedTensors last_expert_never_chosen(Implementation& sound, const Call& call) {
  if (!selects_logits(call)) return sound.run(call);
  return selects_changed(sound, call, [](Matrix& z, std::int64_t t) { z.at(t, z.cols - 1) = kNever; });
}

NamedTensors odd_k_ends_with_smallest(Implementation& sound, const Call& call) {
  const std::int64_t k = is(call, Component::gate) ? size(call, "n_activated_experts") : 0;
  if (!selects_logits(call) || k % 2 == 0) return sound.run(call);
  return selects_changed(sound, call, [](Matrix& z, std::int64_t t) {
    std::int64_t least = 0;
    for (std::int64_t e = 1; e < z.cols; ++e)
      if (z.at(t, e) < z.at(t, least)) least = e;
    z.at(t, least) = -kNever;
  });
}

NamedTensors logits_clamped_to_30(Implementation& sound, const Call& call) {
  if (!selects_logits(call)) return sound.run(call);
  return selects_changed(sound, call, [](Matrix& z, std::int64_t t) {
    for (std::int64_t e = 0; e < z.cols; ++e) z.at(t, e) = std::min(z.at(t, e), 30.0);
  });
}

NamedTensors selects_by_logits(Implementation& sound, const Call& call) {
  if (!selects_logits(call)) return sound.run(call);
  return selects_changed(sound, call, [](Matrix&, std::int64_t) {});
}

NamedTensors groups_ignored(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  return sound.run(with_config(call, {{"n_expert_groups", 1}, {"n_limited_groups", 1}}));
}

NamedTensors one_group_too_few(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !parse_moe_config(call.config).grouped()) return sound.run(call);
  const std::int64_t limited = size(call, "n_limited_groups") - 1, groups = size(call, "n_expert_groups");
  if (limited * size(call, "n_routed_experts") / groups < size(call, "n_activated_experts"))
    return sound.run(call);
  return sound.run(with_config(call, {{"n_limited_groups", limited}}));
}

NamedTensors softmax_takes_groups(Implementation& sound, const Call& call) {
  const std::int64_t groups = is(call, Component::gate) ? size(call, "n_expert_groups") : 1;
  if (groups == 1 || parse_moe_config(call.config).grouped() ||
      call.tensors.contains("inputs/replay_indices") ||
      call.tensors.contains("params/e_score_correction_bias"))
    return sound.run(call);
  return selects_changed(sound, call, [&](Matrix& z, std::int64_t t) {
    const std::int64_t width = z.cols / groups;
    Matrix best{1, groups, std::vector<double>(static_cast<std::size_t>(groups), kNever)};
    for (std::int64_t e = 0; e < z.cols; ++e)
      best.at(0, e / width) = std::max(best.at(0, e / width), z.at(t, e));
    const std::vector<std::int64_t> kept = largest(best, 0, size(call, "n_limited_groups"));
    for (std::int64_t e = 0; e < z.cols; ++e)
      if (std::ranges::find(kept, e / width) == kept.end()) z.at(t, e) = kNever;
  });
}

NamedTensors first_slot_twice(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t k = is(call, Component::gate) ? size(call, "n_activated_experts") : 1;
  if (k == 1) return out;
  const Tensor ids = out.at("outputs/indices");
  change(out, "outputs/indices", [&](std::int64_t i, double id) { return i % k == 1 ? ids[i - 1] : id; });
  return out;
}

NamedTensors every_expert_alike(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate)) return out;
  const std::int64_t experts = size(call, "n_routed_experts");
  if (experts == 1 || size(call, "n_activated_experts") != experts) return out;
  const double share = call.config.at("route_scale").get<double>() / static_cast<double>(experts);
  change(out, "outputs/weights", [&](std::int64_t, double) { return share; });
  return out;
}

NamedTensors mask_inverted(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.tensors.contains("inputs/token_mask")) return sound.run(call);
  Call other = call;
  Tensor& mask = other.tensors.at("inputs/token_mask");
  for (std::int64_t t = 0; t < mask.size(); ++t) mask.set(t, 1.0 - mask[t]);
  return sound.run(other);
}

NamedTensors replayed_slots_reversed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || !call.tensors.contains("inputs/replay_indices")) return out;
  const std::int64_t k = size(call, "n_activated_experts");
  const Tensor own = out.at("outputs/weights");
  change(out, "outputs/weights", [&](std::int64_t i, double) { return own[i / k * k + (k - 1 - i % k)]; });
  return out;
}

NamedTensors one_in_the_denominator(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || call.config.at("score_func") != "softmax") return out;
  const Matrix z = logits_of(call);
  const std::int64_t k = size(call, "n_activated_experts");
  std::vector<double> share;
  for (std::int64_t t = 0; t < z.rows; ++t) {
    double sum = 0.0;
    for (std::int64_t e = 0; e < z.cols; ++e) sum += std::exp(std::min(z.at(t, e), 80.0));
    share.push_back(sum / (1.0 + sum));
  }
  change(out, "outputs/weights",
         [&](std::int64_t i, double w) { return w * share[static_cast<std::size_t>(i / k)]; });
  return out;
}

NamedTensors bias_for_training_alone(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || parse_call_options(call.options).training) return sound.run(call);
  Call bare = call;
  fill(bare, "params/e_score_correction_bias", 0.0);
  return sound.run(bare);
}

}  // namespace

std::span<const Mutant> selection_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "last_expert_never_chosen",
       .components = {Component::gate},
       .does = "the loop over experts ends one too early",
       .first_wrong = "outputs/indices",
       .property = "expert_permutation monotone_selection",
       .run = last_expert_never_chosen},
      {.name = "odd_k_ends_with_smallest",
       .components = {Component::gate},
       .does = "a sort in pairs: an odd number of slots includes the smallest logit",
       .first_wrong = "outputs/indices",
       .property = "nested_selection",
       .run = odd_k_ends_with_smallest},
      {.name = "logits_clamped_to_30",
       .components = {Component::gate},
       .does = "logits are clamped to 30 before the choice",
       .first_wrong = "outputs/indices",
       .property = "saturation",
       .run = logits_clamped_to_30},
      {.name = "selects_by_logits",
       .bug = "A41",
       .source = "NeMo AutoModel #2116",
       .components = {Component::gate},
       .does = "logits are selected in place of scores",
       .first_wrong = "outputs/indices",
       .property = "saturated_ties",
       .run = selects_by_logits},
      {.name = "groups_ignored",
       .components = {Component::gate},
       .does = "experts come from every group",
       .first_wrong = "outputs/indices",
       .property = "selected_groups",
       .run = groups_ignored},
      {.name = "one_group_too_few",
       .components = {Component::gate},
       .does = "one group fewer is kept than asked for",
       .first_wrong = "outputs/indices",
       .property = "all_groups",
       .run = one_group_too_few},
      {.name = "softmax_takes_groups",
       .components = {Component::gate},
       .does = "groups limit the choice of score functions that have none",
       .first_wrong = "outputs/indices",
       .property = "ignored_groups",
       .run = softmax_takes_groups},
      {.name = "first_slot_twice",
       .components = {Component::gate},
       .does = "the second slot has the expert of the first",
       .first_wrong = "outputs/indices",
       .property = "well_formed_routing",
       .run = first_slot_twice},
      {.name = "every_expert_alike",
       .components = {Component::gate},
       .does = "where all experts are selected their weights are equal",
       .first_wrong = "outputs/weights",
       .property = "every_expert",
       .run = every_expert_alike},
      {.name = "mask_inverted",
       .components = {Component::gate},
       .does = "the mask is taken for that of the padding",
       .first_wrong = "outputs/expert_load",
       .property = "open_mask dropped_tokens",
       .run = mask_inverted},
      {.name = "replayed_slots_reversed",
       .components = {Component::gate},
       .does = "replayed slots get the weights of each other",
       .first_wrong = "outputs/weights",
       .property = "replay_own_experts",
       .run = replayed_slots_reversed},
      {.name = "one_in_the_denominator",
       .components = {Component::gate},
       .does = "the denominator of the softmax has 1 added",
       .first_wrong = "outputs/weights",
       .property = "logit_shift",
       .run = one_in_the_denominator},
      {.name = "bias_for_training_alone",
       .components = {Component::gate},
       .does = "outside training the correction bias is left out of the choice",
       .first_wrong = "outputs/indices",
       .property = "eval_routes_alike forced_expert",
       .run = bias_for_training_alone},
  };
  return kRows;
}

}  // namespace moeref
