// Wrong losses, bias updates, initialisation, metrics and balanced gates.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

NamedTensors aux_loss_without_mean(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::aux_loss)) {
    Tensor& loss = out.at("outputs/aux_loss");
    loss.set(0, loss[0] * static_cast<double>(require(call.tensors, "inputs/indices").extent(0)));
  }
  return out;
}

NamedTensors bias_step_reversed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, bias] : out)
    if (is(call, Component::bias_update) && name.starts_with("outputs/e_score_correction_bias"))
      for (std::int64_t e = 0; e < bias.size(); ++e)
        bias.set(e, 2.0 * require(call.tensors, "params/e_score_correction_bias")[e] - bias[e]);
  return out;
}

NamedTensors update_from_local_load(Implementation& sound, const Call& call) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  return with_results_of(sound, call, first_rank_only(call, "inputs/token_mask"),
                         "outputs/e_score_correction_bias");
}

NamedTensors load_counted_twice(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, load] : out)
    if (name.starts_with("outputs/cumulative_expert_load")) load = scaled(load, 2.0);
  return out;
}

/// The bias in 16 bits between rounds: steps of 2^-10 vanish beside 1/2.
NamedTensors bias_kept_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, bias] : out)
    if (name.starts_with("outputs/e_score_correction_bias"))
      bias = bias.cast(DType::bfloat16).cast(DType::float64);
  return out;
}

NamedTensors ranks_share_a_seed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t ranks = parse_call_options(call.options).parallel.ep_size;
  for (auto& [name, tensor] : out) {
    if (!is(call, Component::init) || !name.starts_with("outputs/experts.")) continue;
    const std::int64_t own = tensor.extent(0) / ranks;
    std::vector<std::int64_t> order;
    for (std::int64_t e = 0; e < tensor.extent(0); ++e) order.push_back(e % own);
    tensor = take(tensor, 0, order);
  }
  return out;
}

NamedTensors deviation_taken_for_variance(Implementation& sound, const Call& call) {
  if (!is(call, Component::init)) return sound.run(call);
  Call other = call;
  other.options["init_std"] = std::sqrt(parse_call_options(call.options).init_std);
  return sound.run(other);
}

NamedTensors population_deviation(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::metrics)) {
    const auto n = static_cast<double>(size(call, "n_routed_experts"));
    out["outputs/cv"] = scaled(out.at("outputs/cv"), std::sqrt((n - 1.0) / n));
  }
  return out;
}

NamedTensors skip_ignored(Implementation& sound, const Call& call) {
  if (!is(call, Component::fake_balanced_gate)) return sound.run(call);
  Call other = call;
  other.options.erase("skip_first_n_experts");
  return sound.run(other);
}

}  // namespace

std::span<const Mutant> training_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "aux_loss_without_mean",
       .bug = "A2",
       .source = "NeMo AutoModel #1412",
       .components = {Component::aux_loss},
       .does = "the loss is multiplied by the number of tokens",
       .first_wrong = "outputs/aux_loss",
       .property = "uniform_loss loss_of_given_scores",
       .run = aux_loss_without_mean},
      {.name = "bias_step_reversed",
       .components = {Component::bias_update},
       .does = "the bias of overloaded experts is raised",
       .shows = "S",
       .first_wrong = "outputs/e_score_correction_bias* outputs/indices*",
       .property = "sign_rule bias_update_state_machine",
       .run = bias_step_reversed},
      {.name = "update_from_local_load",
       .bug = "A12",
       .source = "NeMo AutoModel #3348",
       .components = {Component::bias_update},
       .does = "each rank updates the bias from its own load",
       .shows = "R S",
       .first_wrong = "outputs/e_score_correction_bias*",
       .property = "data_parallel_update",
       .run = update_from_local_load},
      {.name = "load_counted_twice",
       .bug = "A14",
       .source = "NeMo AutoModel #3247",
       .components = {Component::bias_update},
       .does = "the load of each forward is added twice",
       .shows = "S",
       .first_wrong = "outputs/cumulative_expert_load*",
       .property = "cumulative_load",
       .run = load_counted_twice},
      {.name = "bias_kept_in_bfloat16",
       .bug = "A11",
       .source = "NeMo AutoModel d86b9603d",
       .components = {Component::bias_update},
       .does = "the bias is rounded to 16 bits between rounds",
       .shows = "S P",
       .first_wrong = "outputs/e_score_correction_bias*",
       .property = "sign_rule",
       .run = bias_kept_in_bfloat16},
      {.name = "ranks_share_a_seed",
       .bug = "M21",
       .source = "fastmoe #4",
       .components = {Component::init},
       .does = "every rank draws the same experts",
       .shows = "R",
       .first_wrong = "outputs/experts.*",
       .property = "init_rank_count uncorrelated_parameters",
       .run = ranks_share_a_seed},
      {.name = "deviation_taken_for_variance",
       .components = {Component::init},
       .does = "normal values are drawn with the square root of the deviation",
       .first_wrong = "outputs/*",
       .property = "normal_values one_draw init_deviation",
       .run = deviation_taken_for_variance},
      {.name = "population_deviation",
       .components = {Component::metrics},
       .does = "the coefficient of variation divides by n in place of n - 1",
       .first_wrong = "outputs/cv",
       .property = "metric_definitions",
       .run = population_deviation},
      {.name = "skip_ignored",
       .components = {Component::fake_balanced_gate},
       .does = "the first experts are not skipped",
       .first_wrong = "outputs/indices",
       .property = "experts_in_turn",
       .run = skip_ignored},
  };
  return kRows;
}

}  // namespace moeref
