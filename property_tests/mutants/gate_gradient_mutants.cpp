// Wrong gates in their backward pass.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

NamedTensors gate_loss_gradient_dropped(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward) return sound.run(call);
  return with_results_of(sound, call, with_config(call, {{"aux_loss_coeff", 0.0}}), "grads/");
}

NamedTensors gate_loss_gradient_times_tokens(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward || call.config.at("aux_loss_coeff") == 0.0)
    return sound.run(call);
  const double tokens = static_cast<double>(require(call.tensors, "inputs/x").extent(0));
  return with_results_of(sound, call, with_config(call, {{"aux_loss_coeff", std::max(tokens, 1.0)}}),
                         "grads/");
}

NamedTensors loss_reaches_masked_tokens(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward) return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  return with_results_of(sound, call, open, "grads/");
}

NamedTensors replay_without_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::gate) && call.backward && call.tensors.contains("inputs/replay_indices"))
    for (auto& [name, tensor] : out)
      if (name.starts_with("grads/")) tensor = filled(tensor.dtype(), tensor.shape(), 0.0);
  return out;
}

/// Backward of the normalisation left out: the sum of the selected scores is taken for a constant.
NamedTensors normalisation_taken_for_constant(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward || !call.config.value("norm_topk_prob", false))
    return sound.run(call);
  return with_results_of(sound, call, with_config(call, {{"norm_topk_prob", false}}), "grads/");
}

}  // namespace

std::span<const Mutant> gate_gradient_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "loss_gradient_dropped",
       .bug = "A1",
       .source = "NeMo AutoModel #1412",
       .components = {Component::gate},
       .does = "the auxiliary loss has no gradient",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "loss_gradient",
       .run = gate_loss_gradient_dropped},
      {.name = "loss_gradient_times_tokens",
       .bug = "A2",
       .source = "NeMo AutoModel #1412",
       .components = {Component::gate},
       .does = "the gradient of the auxiliary loss has the number of tokens in place of the coefficient",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "linear_coefficient",
       .run = gate_loss_gradient_times_tokens},
      {.name = "loss_reaches_masked_tokens",
       .bug = "O33",
       .source = "HF transformers #28517",
       .components = {Component::gate},
       .does = "gradients are those without a mask",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "masked_gradient",
       .run = loss_reaches_masked_tokens},
      {.name = "replay_without_gradient",
       .bug = "A16",
       .source = "NeMo AutoModel #3140",
       .components = {Component::gate},
       .does = "replayed experts leave the gate without a gradient",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "replay_other_experts",
       .run = replay_without_gradient},
      {.name = "normalisation_taken_for_constant",
       .components = {Component::gate},
       .does = "the sum of the selected scores is taken for a constant in the backward pass",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "central_differences",
       .run = normalisation_taken_for_constant},
  };
  return kRows;
}

}  // namespace moeref
