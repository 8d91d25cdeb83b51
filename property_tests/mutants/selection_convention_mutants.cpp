// Ports that read a convention of SPEC 10 on the choice of experts wrongly, or go by its default: what they
// are selected by, Sinkhorn's balancing, experts that every token has, and the factor of each expert.
#include <algorithm>
#include <cmath>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

bool selects_by_sinkhorn(const Call& call) {
  return is(call, Component::gate) && parse_call_options(call.options).training &&
         call.config.value("selection_scores", "") == "sinkhorn";
}

/// The sound results on the k largest of other numbers.
NamedTensors with_largest_of(Implementation& sound, const Call& call, const Matrix& q) {
  return with_choice(sound, call, [&](std::int64_t t, const IdList&) {
    return largest(q, t, size(call, "n_activated_experts"));
  });
}

NamedTensors sinkhorn_left_out(Implementation& sound, const Call& call) {
  return selects_by_sinkhorn(call) ? with_largest_of(sound, call, logits_of(call)) : sound.run(call);
}

NamedTensors sinkhorn_of_one_round(Implementation& sound, const Call& call) {
  return selects_by_sinkhorn(call) ? with_largest_of(sound, call, balanced_choices_of(call, 1))
                                   : sound.run(call);
}

NamedTensors sinkhorn_over_all_ranks(Implementation& sound, const Call& call) {
  if (!selects_by_sinkhorn(call) || context_ranks_of(call) == 1) return sound.run(call);
  Call one = call;
  for (const char* option : {"cp_size", "tokens_per_rank"}) one.options.erase(option);
  return with_largest_of(sound, call, balanced_choices_of(one));
}

NamedTensors balanced_weights(Implementation& sound, const Call& call) {
  return selects_by_sinkhorn(call) ? with_weights_of(sound, call, balanced_choices_of(call))
                                   : sound.run(call);
}

bool has_always_selected(const Call& call) {
  return is(call, Component::gate) && call.config.contains("n_always_selected");
}

NamedTensors shared_experts_compete(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "n_always_selected");
}

/// Each token's choice with the first experts in the place of the last ones, where it has none of them.
NamedTensors first_experts_are_shared(Implementation& sound, const Call& call) {
  if (!has_always_selected(call)) return sound.run(call);
  const std::int64_t experts = size(call, "n_routed_experts"), shared = size(call, "n_always_selected");
  return with_choice(sound, call, [&](std::int64_t, const IdList& own) {
    IdList out = own;
    for (std::int64_t& id : out) {
      const std::int64_t first = id - (experts - shared);
      if (first >= 0 && std::ranges::find(own, first) == own.end()) id = first;
    }
    return out;
  });
}

/// Shared experts stand outside of the sum, and weigh what they would alone.
NamedTensors shared_experts_outside_the_sum(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_always_selected(call) || !normalises(call)) return out;
  const MoEConfig c = parse_moe_config(call.config);
  const Tensor ids = out.at("outputs/indices"), before = out.at("outputs/weights");
  change(out, "outputs/weights", [&](std::int64_t i, double w) {
    const std::int64_t k = c.n_activated_experts, first = i - i % k;
    const auto shared = [&](std::int64_t slot) {
      return ids[slot] >= static_cast<double>(c.choosable_experts());
    };
    double all = 0.0, own = 0.0;
    for (std::int64_t slot = first; slot < first + k; ++slot) {
      all += before[slot];
      if (shared(slot) == shared(i)) own += before[slot];
    }
    return own != 0.0 ? w * all / own : w;
  });
  return out;
}

NamedTensors scores_selected_anyway(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "selection_scores");
}

NamedTensors selected_logits_weigh_with_bias(Implementation& sound, const Call& call) {
  const Tensor* correction = find(call.tensors, "params/e_score_correction_bias");
  if (!is(call, Component::gate) || !call.config.contains("selection_scores") || !correction ||
      facts(score_of(call)).groups == GroupRule::none || score_of(call) == ScoreFunc::softmax_with_bias)
    return sound.run(call);
  Matrix scores = logits_of(call);
  for (std::int64_t t = 0; t < scores.rows; ++t)
    for (std::int64_t e = 0; e < scores.cols; ++e)
      scores.at(t, e) = 1.0 / (1.0 + std::exp(-scores.at(t, e) - (*correction)[e]));
  return with_weights_of(sound, call, scores);
}

/// The sound results with weights whose factor per expert is another one: `of(token's ids, slot)`.
NamedTensors with_scales(Implementation& sound, const Call& call,
                         double (*of)(const Tensor& scale, std::int64_t id, std::int64_t slot)) {
  NamedTensors out = sound.run(call);
  const Tensor* scale = find(call.tensors, "params/per_expert_scale");
  if (!is(call, Component::gate) || !scale) return out;
  const std::int64_t k = size(call, "n_activated_experts");
  const Tensor ids = out.at("outputs/indices");
  change(out, "outputs/weights", [&](std::int64_t i, double w) {
    const auto id = static_cast<std::int64_t>(ids[i]);
    return (*scale)[id] == 0.0 ? of(*scale, id, i % k) : w / (*scale)[id] * of(*scale, id, i % k);
  });
  return out;
}

NamedTensors expert_scale_left_out_of_weights(Implementation& sound, const Call& call) {
  return with_scales(sound, call, [](const Tensor&, std::int64_t, std::int64_t) { return 1.0; });
}

NamedTensors expert_scale_by_slot(Implementation& sound, const Call& call) {
  return with_scales(sound, call,
                     [](const Tensor& scale, std::int64_t, std::int64_t slot) { return scale[slot]; });
}

/// A parameter that was taken for a buffer.
NamedTensors expert_scale_not_trained(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (const char* name : {"grads/per_expert_scale", "grads/gate.per_expert_scale"})
    change(out, name, [](std::int64_t, double) { return 0.0; });
  return out;
}

}  // namespace

std::span<const Mutant> selection_convention_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "sinkhorn_left_out",
       .components = {Component::gate},
       .does = "logits are selected by as they are where they should be balanced",
       .first_wrong = "outputs/indices",
       .property = "sinkhorn_selection",
       .run = sinkhorn_left_out},
      {.name = "sinkhorn_of_one_round",
       .components = {Component::gate},
       .does = "Sinkhorn's balancing stops after one round",
       .first_wrong = "outputs/indices",
       .property = "sinkhorn_selection",
       .run = sinkhorn_of_one_round},
      {.name = "sinkhorn_over_all_ranks",
       .components = {Component::gate},
       .does = "ranks balance their tokens together",
       .shows = "R",
       .first_wrong = "outputs/indices",
       .property = "sinkhorn_selection",
       .run = sinkhorn_over_all_ranks},
      {.name = "balanced_weights",
       .components = {Component::gate},
       .does = "routing weights are made of balanced scores",
       .first_wrong = "outputs/weights",
       .property = "sinkhorn_selection",
       .run = balanced_weights},
      {.name = "shared_experts_compete",
       .components = {Component::gate},
       .does = "experts that every token has are chosen by their scores like the others",
       .first_wrong = "outputs/indices outputs/expert_load",
       .property = "always_selected",
       .run = shared_experts_compete},
      {.name = "first_experts_are_shared",
       .components = {Component::gate},
       .does = "the first experts are those that every token has, not the last ones",
       .first_wrong = "outputs/indices outputs/expert_load",
       .property = "always_selected",
       .run = first_experts_are_shared},
      {.name = "shared_experts_outside_the_sum",
       .source = "transformers inkling normalises over both, DeepSeek-V3's shared experts have no score",
       .components = {Component::gate},
       .does = "the weights of experts that every token has are normalised apart from the others",
       .first_wrong = "outputs/weights",
       .property = "always_selected",
       .run = shared_experts_outside_the_sum},
      {.name = "scores_selected_anyway",
       .source = "transformers 5.24 kolibri1 selects by logits",
       .components = {Component::gate},
       .does = "scores plus the correction bias are selected by, whatever selection_scores is",
       .first_wrong = "outputs/indices",
       .property = "selection_rule",
       .run = scores_selected_anyway},
      {.name = "selected_logits_weigh_with_bias",
       .components = {Component::gate},
       .does = "the correction bias that logits were selected with is in the sigmoid of the weights, too",
       .first_wrong = "outputs/weights",
       .property = "selection_rule",
       .run = selected_logits_weigh_with_bias},
      {.name = "expert_scale_left_out_of_weights",
       .components = {Component::gate},
       .does = "routing weights lack the factor of their expert",
       .first_wrong = "outputs/weights",
       .property = "expert_scale",
       .run = expert_scale_left_out_of_weights},
      {.name = "expert_scale_by_slot",
       .components = {Component::gate},
       .does = "the factors of experts are read by the number of the slot",
       .first_wrong = "outputs/weights",
       .property = "expert_scale",
       .run = expert_scale_by_slot},
      {.name = "expert_scale_not_trained",
       .components = {Component::gate},
       .does = "the factors of experts have no gradient",
       .shows = "G",
       .first_wrong = "grads/per_expert_scale",
       .property = "expert_scale",
       .run = expert_scale_not_trained},
  };
  return kRows;
}

}  // namespace moeref
