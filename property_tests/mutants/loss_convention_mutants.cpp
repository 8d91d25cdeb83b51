// Ports that read a convention of SPEC 10 on training wrongly, or go by its default: the centred step of the
// correction bias, what the auxiliary loss counts and divides by, and the z-loss.
#include <algorithm>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

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
  if (!call.config.contains("global_loss_coeff")) other.tensors.erase("inputs/accumulated_expert_load");
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

std::span<const Mutant> loss_convention_mutants() {
  static const std::vector<Mutant> kRows{
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
  };
  return kRows;
}

}  // namespace moeref
