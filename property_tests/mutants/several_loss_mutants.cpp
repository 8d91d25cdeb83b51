// Ports that take several auxiliary losses at once (SPEC 10, batch_loss_coeff and global_loss_coeff) wrongly:
// in what a loss is of, in its coefficient, or in how its gradient reaches the scores.
#include <string>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

constexpr const char *kAux = "aux_loss_coeff", *kBatch = "batch_loss_coeff", *kGlobal = "global_loss_coeff";

double coefficient(const Call& call, const char* field) { return call.config.value(field, 0.0); }
bool has_further(const Call& call) {
  return is_one_of(call, {Component::gate, Component::moe}) &&
         (coefficient(call, kBatch) > 0.0 || coefficient(call, kGlobal) > 0.0);
}

/// The sound results with the gradients of a call that differs in its losses alone.
NamedTensors with_gradients_of(Implementation& sound, const Call& call, const Call& other) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : sound.run(other))
    if (name.starts_with("grads/")) out[name] = tensor;
  return out;
}

/// The same call with other coefficients. A loss without one has neither result nor earlier loads.
Call with_coefficients(Call call, double aux, double batch, double global) {
  call.config[kAux] = aux, call.config[kBatch] = batch, call.config[kGlobal] = global;
  if (!parse_moe_config(call.config).adds_earlier_loads())
    call.tensors.erase("inputs/accumulated_expert_load");
  return call;
}

/// The gradients of coefficients f(aux, batch, global), the losses as they are.
template <typename F>
NamedTensors with_gradient_coefficients(Implementation& sound, const Call& call, F&& f) {
  if (!has_further(call) || !call.backward) return sound.run(call);
  double aux = coefficient(call, kAux), batch = coefficient(call, kBatch),
         global = coefficient(call, kGlobal);
  f(aux, batch, global);
  return with_gradients_of(sound, call, with_coefficients(call, aux, batch, global));
}

NamedTensors batch_loss_has_no_gradient(Implementation& sound, const Call& call) {
  return with_gradient_coefficients(sound, call, [](double&, double& batch, double&) { batch = 0.0; });
}
NamedTensors last_loss_alone_has_a_gradient(Implementation& sound, const Call& call) {
  return with_gradient_coefficients(sound, call, [](double& aux, double& batch, double& global) {
    aux = 0.0;
    if (global > 0.0) batch = 0.0;
  });
}
NamedTensors coefficients_swapped(Implementation& sound, const Call& call) {
  return with_gradient_coefficients(sound, call, [](double&, double& batch, double& global) {
    if (batch > 0.0 && global > 0.0) std::swap(batch, global);
  });
}
NamedTensors one_coefficient_for_all(Implementation& sound, const Call& call) {
  return with_gradient_coefficients(sound, call, [](double& aux, double& batch, double& global) {
    if (aux > 0.0 && batch > 0.0) batch = aux;
    if (aux > 0.0 && global > 0.0) global = aux;
  });
}
NamedTensors further_losses_not_scaled(Implementation& sound, const Call& call) {
  const double scale = parse_call_options(call.options).aux_loss_backward_scale;
  return with_gradient_coefficients(
      sound, call, [&](double&, double& batch, double& global) { batch /= scale, global /= scale; });
}
NamedTensors sequence_gradient_is_a_sum(Implementation& sound, const Call& call) {
  const auto sequences = call.config.value("aux_loss_sequences", 1.0);
  return with_gradient_coefficients(sound, call, [&](double& aux, double&, double&) { aux *= sequences; });
}

/// The loss `name` under the rule of the loss `of`, which it joins: value and gradient.
NamedTensors as_other_loss(Implementation& sound, const Call& call, const char* name, const char* field,
                           const char* of, const char* of_field) {
  if (!has_further(call) || coefficient(call, field) == 0.0) return sound.run(call);
  Call other = call;
  other.config[of_field] = coefficient(call, of_field) + coefficient(call, field);
  other.config[field] = 0.0;
  other = with_coefficients(other, coefficient(other, kAux), coefficient(other, kBatch),
                            coefficient(other, kGlobal));
  if (parse_moe_config(other.config).adds_earlier_loads() &&
      !call.tensors.contains("inputs/accumulated_expert_load"))
    return sound.run(call);
  NamedTensors out = sound.run(other);
  out[name] = out.at(of);
  if (coefficient(call, of_field) == 0.0) out.erase(of);
  return out;
}

NamedTensors global_loss_of_this_micro_batch(Implementation& sound, const Call& call) {
  return as_other_loss(sound, call, "outputs/global_loss", kGlobal, "outputs/batch_loss", kBatch);
}
NamedTensors batch_loss_per_sequence(Implementation& sound, const Call& call) {
  if (context_ranks_of(call) > 1) return sound.run(call);
  return as_other_loss(sound, call, "outputs/batch_loss", kBatch, "outputs/aux_loss", kAux);
}
/// Where there are such loads.
NamedTensors earlier_loads_in_the_batch_loss(Implementation& sound, const Call& call) {
  if (coefficient(call, kGlobal) == 0.0) return sound.run(call);
  return as_other_loss(sound, call, "outputs/batch_loss", kBatch, "outputs/global_loss", kGlobal);
}

NamedTensors further_losses_with_coefficient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_further(call)) return out;
  change(out, "outputs/batch_loss", [&](std::int64_t, double v) { return v * coefficient(call, kBatch); });
  change(out, "outputs/global_loss", [&](std::int64_t, double v) { return v * coefficient(call, kGlobal); });
  return out;
}

constexpr std::string_view kGrads =
    "grads/x grads/weight grads/bias grads/per_expert_scale grads/input_scale grads/gate.weight "
    "grads/gate.bias";

}  // namespace

std::span<const Mutant> several_loss_mutants() {
  static const std::vector<Component> gates{Component::gate, Component::moe};
  static const std::vector<Mutant> kRows{
      {.name = "batch_loss_has_no_gradient",
       .components = gates,
       .does = "the batch loss is reported, and left out of the backward pass",
       .shows = "G",
       .first_wrong = kGrads,
       .property = "several_losses",
       .run = batch_loss_has_no_gradient},
      {.name = "last_loss_alone_has_a_gradient",
       .components = gates,
       .does =
           "each loss takes the place of the one before it at the scores, so that the last one alone has a "
           "gradient",
       .shows = "G",
       .first_wrong = kGrads,
       .property = "several_losses",
       .run = last_loss_alone_has_a_gradient},
      {.name = "coefficients_swapped",
       .components = gates,
       .does = "the coefficients of the batch loss and of the global loss change places",
       .shows = "G",
       .first_wrong = kGrads,
       .property = "several_losses",
       .run = coefficients_swapped},
      {.name = "one_coefficient_for_all",
       .components = gates,
       .does = "the first of the coefficients is taken for every loss",
       .shows = "G",
       .first_wrong = kGrads,
       .property = "several_losses",
       .run = one_coefficient_for_all},
      {.name = "further_losses_not_scaled",
       .components = gates,
       .does = "the main-loss backward scale reaches the first loss alone",
       .shows = "G",
       .first_wrong = kGrads,
       .property = "several_losses",
       .run = further_losses_not_scaled},
      {.name = "sequence_gradient_is_a_sum",
       .components = gates,
       .does = "beside another loss the gradient of the loss per sequence is a sum over sequences, not their "
               "mean",
       .shows = "G",
       .first_wrong = kGrads,
       .property = "several_losses",
       .run = sequence_gradient_is_a_sum},
      {.name = "global_loss_of_this_micro_batch",
       .components = gates,
       .does = "the global loss leaves out the loads of earlier micro-batches",
       .shows = "F G",
       .first_wrong = "outputs/global_loss",
       .property = "further_losses several_losses",
       .run = global_loss_of_this_micro_batch},
      {.name = "batch_loss_per_sequence",
       .components = gates,
       .does = "the batch loss follows aux_loss_sequences and aux_loss_accumulated",
       .shows = "F G",
       .first_wrong = "outputs/batch_loss",
       .property = "further_losses several_losses",
       .run = batch_loss_per_sequence},
      {.name = "earlier_loads_in_the_batch_loss",
       .components = gates,
       .does = "loads of earlier micro-batches, where they are given, count in the batch loss, too",
       .shows = "F G",
       .first_wrong = "outputs/batch_loss",
       .property = "further_losses several_losses",
       .run = earlier_loads_in_the_batch_loss},
      {.name = "further_losses_with_coefficient",
       .components = gates,
       .does = "the batch loss and the global loss are returned multiplied by their coefficients",
       .first_wrong = "outputs/batch_loss outputs/global_loss",
       .property = "further_losses",
       .run = further_losses_with_coefficient},
  };
  return kRows;
}

}  // namespace moeref
