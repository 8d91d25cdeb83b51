// Ports that read a convention of SPEC 10 wrongly, or that say they know it and go by the default.
#include <algorithm>
#include <cmath>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_gate.hpp"

namespace moeref {
namespace {

/// The call with a convention at its default, for ports that never look at it.
NamedTensors without(Implementation& sound, const Call& call, const char* field) {
  if (!is_one_of(call, {Component::gate, Component::moe}) || !call.config.contains(field))
    return sound.run(call);
  Call other = call;
  other.config.erase(field);
  return sound.run(other);
}

NamedTensors denominator_is_always_a_sum(Implementation& sound, const Call& call) {
  return without(sound, call, "norm_denominator");
}

NamedTensors eps_of_the_documented_system(Implementation& sound, const Call& call) {
  return without(sound, call, "norm_eps");
}

NamedTensors maximum_has_slope_everywhere(Implementation& sound, const Call& call) {
  return with_gate_parts(sound, call, {.maximum_holds_slope = false});
}

NamedTensors top1_never_divided(Implementation& sound, const Call& call) {
  return without(sound, call, "norm_at_top1");
}

NamedTensors top1_weight_divided_too(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || call.config.value("norm_at_top1", "none") != "scores")
    return sound.run(call);
  return sound.run(with_config(call, {{"norm_at_top1", "weights_and_scores"}}));
}

NamedTensors group_score_of_score_func(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !parse_moe_config(call.config).grouped()) return sound.run(call);
  const bool ruled = uses_groups(score_of(call));
  return ruled ? without(sound, call, "group_score")
               : sound.run(with_config(call, {{"n_expert_groups", 1}, {"n_limited_groups", 1}}));
}

NamedTensors discarded_groups_of_score_func(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !uses_groups(score_of(call))) return sound.run(call);
  return without(sound, call, "discarded_groups");
}

NamedTensors logits_never_scaled(Implementation& sound, const Call& call) {
  return without(sound, call, "logit_scale");
}

NamedTensors logits_never_capped(Implementation& sound, const Call& call) {
  return without(sound, call, "logit_cap");
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

NamedTensors scores_selected_anyway(Implementation& sound, const Call& call) {
  return without(sound, call, "selection_scores");
}

bool has_always_selected(const Call& call) {
  return is(call, Component::gate) && call.config.contains("n_always_selected");
}

NamedTensors shared_experts_compete(Implementation& sound, const Call& call) {
  return without(sound, call, "n_always_selected");
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

/// The outputs of a call whose tensor is ones.
NamedTensors with_ones(Implementation& sound, const Call& call, const char* tensor) {
  Call other = call;
  fill(other, tensor, 1.0);
  return with_results_of(sound, call, other, "outputs/");
}

bool norms_router_input(const Call& call) {
  return is(call, Component::gate) && call.config.contains("router_input_norm");
}

/// The gate without the norm, on these tokens [T, D].
Call without_router_norm(Call call, const Matrix& input) {
  for (const char* field : {"router_input_norm", "router_input_norm_eps"}) call.config.erase(field);
  call.tensors.erase("params/input_scale");
  Tensor& x = call.tensors.at("inputs/x");
  for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, input.values[static_cast<std::size_t>(i)]);
  return call;
}

NamedTensors router_norm_left_out(Implementation& sound, const Call& call) {
  if (!norms_router_input(call)) return sound.run(call);
  const Tensor& scale = call.tensors.at("params/input_scale");
  Matrix x = matrix_of(call.tensors.at("inputs/x"));
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) *= scale[i] / std::sqrt(static_cast<double>(x.cols));
  return with_results_of(sound, call, without_router_norm(call, x), "outputs/");
}

NamedTensors router_norm_of_sum(Implementation& sound, const Call& call) {
  if (!norms_router_input(call)) return sound.run(call);
  Matrix x = router_input_of(call);
  for (double& a : x.values) a /= std::sqrt(static_cast<double>(x.cols));
  return with_results_of(sound, call, without_router_norm(call, x), "outputs/");
}

NamedTensors router_norm_eps_fixed(Implementation& sound, const Call& call) {
  return without(sound, call, "router_input_norm_eps");
}

NamedTensors router_norm_without_scale(Implementation& sound, const Call& call) {
  return norms_router_input(call) ? with_ones(sound, call, "params/input_scale") : sound.run(call);
}

/// d x = r s d, without the part through r.
NamedTensors router_norm_taken_for_constant(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!norms_router_input(call) || !call.backward) return out;
  const Matrix input = router_input_of(call);
  const Tensor back = sound.run(without_router_norm(call, input)).at("grads/x"),
               &x = call.tensors.at("inputs/x");
  change(out, "grads/x", [&](std::int64_t i, double d) {
    return x[i] != 0.0 ? back[i] * input.values[static_cast<std::size_t>(i)] / x[i] : d;
  });
  return out;
}

bool jitters(const Call& call) { return is(call, Component::gate) && call.config.contains("router_jitter"); }

NamedTensors jitter_left_out(Implementation& sound, const Call& call) {
  return jitters(call) ? with_ones(sound, call, "inputs/router_noise") : sound.run(call);
}

/// d x of what the gate saw, without the noise on the way back.
NamedTensors jitter_left_out_backward(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!jitters(call) || !call.backward) return out;
  const Tensor& noise = call.tensors.at("inputs/router_noise");
  change(out, "grads/x", [&](std::int64_t i, double d) { return noise[i] != 0.0 ? d / noise[i] : d; });
  return out;
}

/// Noise of the token before.
NamedTensors jitter_of_other_token(Implementation& sound, const Call& call) {
  if (!jitters(call)) return sound.run(call);
  Call other = call;
  const Tensor& noise = call.tensors.at("inputs/router_noise");
  Tensor& turned = other.tensors.at("inputs/router_noise");
  const std::int64_t width = noise.shape().back();
  for (std::int64_t i = 0; i < noise.size(); ++i) turned.set((i + width) % noise.size(), noise[i]);
  return with_results_of(sound, call, other, "outputs/");
}

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

NamedTensors bias_never_centred(Implementation& sound, const Call& call) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  Call other = call;
  other.config.erase("centred_bias_update");
  return sound.run(other);
}

/// The loss of one field at its default; loads and routing do not depend on it.
NamedTensors loss_without(Implementation& sound, const Call& call, const char* field) {
  if (!is_one_of(call, {Component::aux_loss, Component::gate})) return sound.run(call);
  Call other = call;
  other.config.erase(field);
  return sound.run(other);
}

NamedTensors loss_always_over_k(Implementation& sound, const Call& call) {
  return loss_without(sound, call, "aux_loss_factor");
}

NamedTensors loss_of_the_whole_batch(Implementation& sound, const Call& call) {
  return loss_without(sound, call, "aux_loss_sequences");
}

NamedTensors loss_counts_every_choice(Implementation& sound, const Call& call) {
  return loss_without(sound, call, "aux_loss_counts");
}

NamedTensors loss_of_this_micro_batch(Implementation& sound, const Call& call) {
  if (!call.tensors.contains("inputs/accumulated_expert_load")) return sound.run(call);
  Call other = call;
  other.config.erase("aux_loss_accumulated");
  other.tensors.erase("inputs/accumulated_expert_load");
  return sound.run(other);
}

/// A call with these accumulated loads in place of its own.
NamedTensors with_accumulated(Implementation& sound, const Call& call, double (*of)(double own, double k)) {
  Call other = call;
  const auto found = other.tensors.find("inputs/accumulated_expert_load");
  if (found == other.tensors.end()) return sound.run(call);
  const auto k = static_cast<double>(size(call, "n_activated_experts"));
  for (std::int64_t e = 0; e < found->second.size(); ++e) found->second.set(e, of(found->second[e], k));
  return sound.run(other);
}

NamedTensors accumulated_loads_twice(Implementation& sound, const Call& call) {
  return with_accumulated(sound, call, [](double own, double) { return 2.0 * own; });
}

/// f over this call's tokens although the loads are those of all: the loss and its gradient grow.
NamedTensors accumulated_over_own_tokens(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* before = find(call.tensors, "inputs/accumulated_expert_load");
  if (!before || !is(call, Component::aux_loss)) return out;
  const MoEConfig c = parse_moe_config(call.config);
  double n = 0.0, sum = 0.0;
  for (std::int64_t t = 0; t < token_count(call); ++t) n += is_live(call, t) ? 1.0 : 0.0;
  for (std::int64_t e = 0; e < before->size(); ++e) sum += (*before)[e];
  n = std::max(n, 1.0);
  const double grown = (n + sum / static_cast<double>(c.aux_loss_counted())) / n;
  for (const char* name : {"outputs/aux_loss", "grads/original_scores"})
    change(out, name, [&](std::int64_t, double value) { return value * grown; });
  return out;
}

/// The z-loss over all tokens, as if none were masked.
NamedTensors z_loss_of_padding_too(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || !out.contains("outputs/z_loss")) return out;
  out["outputs/z_loss"] = sound.run(with_live(call, [](std::int64_t) { return true; })).at("outputs/z_loss");
  return out;
}

NamedTensors z_loss_summed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate)) return out;
  double live = 0.0;
  for (std::int64_t t = 0; t < token_count(call); ++t) live += is_live(call, t) ? 1.0 : 0.0;
  change(out, "outputs/z_loss", [&](std::int64_t, double value) { return value * live; });
  return out;
}

NamedTensors z_loss_has_no_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || !call.config.contains("z_loss_coeff")) return out;
  Call other = call;
  other.config.erase("z_loss_coeff");
  for (auto& [name, tensor] : sound.run(other))
    if (name.starts_with("grads/")) out[name] = tensor;
  return out;
}

}  // namespace

std::span<const Mutant> convention_mutants() {
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
      {.name = "router_norm_left_out",
       .components = {Component::gate},
       .does = "the gate sees tokens that are scaled, but not normalised",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_input",
       .run = router_norm_left_out},
      {.name = "router_norm_of_sum",
       .components = {Component::gate},
       .does = "the gate's tokens are divided by the root of a sum of squares, not of their mean",
       .first_wrong = "outputs/weights outputs/indices",
       .property = "router_input",
       .run = router_norm_of_sum},
      {.name = "router_norm_eps_fixed",
       .components = {Component::gate},
       .does = "the norm of the gate's tokens has the eps of 1e-6 whatever router_input_norm_eps is",
       .first_wrong = "outputs/weights outputs/indices",
       .property = "router_input",
       .run = router_norm_eps_fixed},
      {.name = "router_norm_without_scale",
       .components = {Component::gate},
       .does = "the scale of the gate's normalised tokens is taken for 1",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_input",
       .run = router_norm_without_scale},
      {.name = "router_norm_taken_for_constant",
       .components = {Component::gate},
       .does = "the root mean square of the gate's tokens is taken for a constant",
       .shows = "G",
       .first_wrong = "grads/x",
       .property = "router_input",
       .run = router_norm_taken_for_constant},
      {.name = "jitter_left_out",
       .components = {Component::gate},
       .does = "the gate sees tokens without their noise",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_jitter",
       .run = jitter_left_out},
      {.name = "jitter_of_other_token",
       .components = {Component::gate},
       .does = "a token has the noise of the one before",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_jitter",
       .run = jitter_of_other_token},
      {.name = "jitter_left_out_backward",
       .components = {Component::gate},
       .does = "the gradient of the gate's tokens does not pass their noise",
       .shows = "G",
       .first_wrong = "grads/x",
       .property = "router_jitter",
       .run = jitter_left_out_backward},
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
      {.name = "bias_never_centred",
       .source = "torchtitan 0.3 centres the step",
       .components = {Component::bias_update},
       .does = "the mean of the correction bias's steps stays in it",
       .first_wrong = kUpdatedBias,
       .property = "centred_steps",
       .run = bias_never_centred},
      {.name = "loss_always_over_k",
       .components = {Component::aux_loss, Component::gate},
       .does = "loads of the auxiliary loss are divided by k, whatever aux_loss_factor is",
       .first_wrong = "outputs/aux_loss",
       .property = "loss_rules",
       .run = loss_always_over_k},
      {.name = "loss_of_the_whole_batch",
       .components = {Component::aux_loss, Component::gate},
       .does = "the auxiliary loss takes all sequences for one",
       .first_wrong = "outputs/aux_loss",
       .property = "loss_rules",
       .run = loss_of_the_whole_batch},
      {.name = "loss_counts_every_choice",
       .source = "DeepSpeed's top2gating counts first choices, its topkgating all",
       .components = {Component::aux_loss, Component::gate},
       .does = "the loss counts all slots where first choices alone should count",
       .first_wrong = "outputs/aux_loss",
       .property = "loss_counts",
       .run = loss_counts_every_choice},
      {.name = "loss_of_this_micro_batch",
       .components = {Component::aux_loss, Component::gate},
       .does = "loads of earlier micro-batches are left out",
       .first_wrong = "outputs/aux_loss",
       .property = "loss_counts",
       .run = loss_of_this_micro_batch},
      {.name = "accumulated_loads_twice",
       .components = {Component::aux_loss, Component::gate},
       .does = "loads are accumulated once more where they were already",
       .first_wrong = "outputs/aux_loss",
       .property = "loss_counts",
       .run = accumulated_loads_twice},
      {.name = "accumulated_over_own_tokens",
       .components = {Component::aux_loss},
       .does = "accumulated loads are divided by the tokens of this micro-batch",
       .first_wrong = "outputs/aux_loss",
       .property = "loss_counts",
       .run = accumulated_over_own_tokens},
      {.name = "z_loss_of_padding_too",
       .components = {Component::gate},
       .does = "padding counts in the z-loss",
       .first_wrong = "outputs/z_loss",
       .property = "z_loss",
       .run = z_loss_of_padding_too},
      {.name = "z_loss_summed",
       .components = {Component::gate},
       .does = "the z-loss is a sum over tokens where it should be a mean",
       .first_wrong = "outputs/z_loss",
       .property = "z_loss",
       .run = z_loss_summed},
      {.name = "z_loss_has_no_gradient",
       .components = {Component::gate},
       .does = "the z-loss is reported, and left out of the backward pass",
       .shows = "G",
       .first_wrong = "grads/x grads/weight grads/bias",
       .property = "z_loss",
       .run = z_loss_has_no_gradient},
      {.name = "group_sum_rounds_up",
       .components = {Component::gate},
       .does = "k / g is rounded up where a group's score is the sum of its k / g largest",
       .first_wrong = "outputs/indices",
       .property = "group_rule",
       .run = group_sum_rounds_up},
  };
  return kRows;
}

}  // namespace moeref
