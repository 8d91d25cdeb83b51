// Ports that read a convention of SPEC 10 on scores wrongly, or go by its default: what divides them, how
// groups of experts are scored and discarded, and how logits are scaled and capped.
#include <algorithm>
#include <cmath>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_gate.hpp"

namespace moeref {
namespace {

NamedTensors denominator_is_always_a_sum(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "norm_denominator");
}

NamedTensors eps_of_the_documented_system(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "norm_eps");
}

NamedTensors maximum_has_slope_everywhere(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.maximum_holds_slope = false});
}

NamedTensors top1_never_divided(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "norm_at_top1");
}

NamedTensors top1_weight_divided_too(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || call.config.value("norm_at_top1", "none") != "scores")
    return sound.run(call);
  return sound.run(with_config(call, {{"norm_at_top1", "weights_and_scores"}}));
}

NamedTensors group_score_of_score_func(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !parse_moe_config(call.config).grouped()) return sound.run(call);
  const bool ruled = uses_groups(score_of(call));
  return ruled ? without_convention(sound, call, "group_score")
               : sound.run(with_config(call, {{"n_expert_groups", 1}, {"n_limited_groups", 1}}));
}

NamedTensors discarded_groups_of_score_func(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !uses_groups(score_of(call))) return sound.run(call);
  return without_convention(sound, call, "discarded_groups");
}

NamedTensors group_sum_rounds_up(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || call.config.value("group_score", "") != "topk_over_g_sum")
    return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  if (!c.grouped()) return sound.run(call);
  const std::int64_t k = c.n_activated_experts, g = c.n_limited_groups,
                     size = c.n_routed_experts / c.n_expert_groups;
  const std::int64_t up = std::min((k + g - 1) / g, size);
  if (up == k / g || up > 2) return sound.run(call);
  return sound.run(with_config(call, {{"group_score", "top2_sum"}}));
}

NamedTensors logits_never_scaled(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "logit_scale");
}

NamedTensors logits_never_capped(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "logit_cap");
}

/// z clamped to the cap instead of bent towards it.
NamedTensors logits_clamped_to_cap(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || parse_moe_config(call.config).logit_cap == 0.0) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  Call plain = call;
  plain.config.erase("logit_cap");
  plain.config.erase("logit_scale");
  Matrix scores = logits_of(plain);
  for (double& z : scores.values) z = std::clamp(c.logit_scale * z, -c.logit_cap, c.logit_cap);
  if (score_of(call) != ScoreFunc::sigmoid) return sound.run(call);
  for (double& z : scores.values) z = 1.0 / (1.0 + std::exp(-z));
  return with_weights_of(sound, call, scores);
}

NamedTensors cap_taken_for_constant(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.logit_map_has_slope = false});
}

}  // namespace

std::span<const Mutant> score_convention_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "denominator_is_always_a_sum",
       .components = {Component::gate},
       .does = "the sum plus eps divides where the larger of the two should",
       .first_wrong = "stages/scores outputs/weights outputs/aux_loss",
       .property = "denominator_rule",
       .run = denominator_is_always_a_sum},
      {.name = "eps_of_the_documented_system",
       .source = "transformers 5.24 lfm2_moe has 1e-6",
       .components = {Component::gate},
       .does = "1e-20 guards every division, whatever norm_eps is",
       .first_wrong = "stages/scores outputs/weights outputs/aux_loss",
       .property = "denominator_rule",
       .run = eps_of_the_documented_system},
      {.name = "maximum_has_slope_everywhere",
       .components = {Component::gate},
       .does = "the gradient flows through the sum where norm_eps is the larger and divides",
       .shows = "G",
       .first_wrong = "grads/x grads/weight grads/bias",
       .property = "",
       .run = maximum_has_slope_everywhere},
      {.name = "top1_never_divided",
       .components = {Component::gate},
       .does = "with k = 1 nothing is divided, whatever norm_at_top1 is",
       .first_wrong = "stages/scores outputs/weights outputs/aux_loss",
       .property = "top1_rule",
       .run = top1_never_divided},
      {.name = "top1_weight_divided_too",
       .components = {Component::gate},
       .does = "with k = 1 the weight is divided where the scores of the loss alone should be",
       .first_wrong = "outputs/weights",
       .property = "top1_rule",
       .run = top1_weight_divided_too},
      {.name = "group_score_of_score_func",
       .components = {Component::gate},
       .does = "the score function says how groups are scored, whatever group_score is",
       .first_wrong = "outputs/indices",
       .property = "group_rule",
       .run = group_score_of_score_func},
      {.name = "discarded_groups_of_score_func",
       .components = {Component::gate},
       .does = "the score function says what discarded groups become, whatever discarded_groups is",
       .first_wrong = "outputs/indices",
       .property = "group_rule",
       .run = discarded_groups_of_score_func},
      {.name = "group_sum_rounds_up",
       .components = {Component::gate},
       .does = "k / g is rounded up where a group's score is the sum of its k / g largest",
       .first_wrong = "outputs/indices",
       .property = "group_rule",
       .run = group_sum_rounds_up},
      {.name = "logits_never_scaled",
       .components = {Component::gate},
       .does = "logits are scored without their factor",
       .first_wrong = "stages/scores outputs/indices outputs/weights",
       .property = "logit_rule",
       .run = logits_never_scaled},
      {.name = "logits_never_capped",
       .components = {Component::gate},
       .does = "logits are scored without their cap",
       .first_wrong = "stages/scores outputs/indices outputs/weights",
       .property = "logit_rule",
       .run = logits_never_capped},
      {.name = "logits_clamped_to_cap",
       .components = {Component::gate},
       .does = "logits are clamped to the cap where they should bend towards it",
       .first_wrong = "outputs/weights",
       .property = "logit_rule",
       .run = logits_clamped_to_cap},
      {.name = "cap_taken_for_constant",
       .components = {Component::gate},
       .does = "the gradient of a logit leaves out the slope of its factor and cap",
       .shows = "G",
       .first_wrong = "grads/x grads/weight grads/bias",
       .property = "logit_rule",
       .run = cap_taken_for_constant},
  };
  return kRows;
}

}  // namespace moeref
