// Losses, updates, initialisation, metrics and balanced gates that are wrong in ways that two calls side by
// side show.
#include <algorithm>
#include <cmath>
#include <string>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

std::string round_of(std::string_view stem, std::int64_t round) {
  return std::string(stem) + "_" + std::to_string(round);
}
constexpr std::string_view kBias = "outputs/e_score_correction_bias",
                           kLoad = "outputs/cumulative_expert_load";

/// The sound results with every step of a bias replaced by restep(expert, step, mean load - load), on the
/// loads of the sound run.
template <typename Restep>
NamedTensors restepped(Implementation& sound, const Call& call, Restep&& restep) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::bias_update)) return out;
  std::vector<double> before = call.tensors.at("params/e_score_correction_bias").doubles(), wrong = before;
  for (std::int64_t s = 0; out.contains(round_of(kBias, s)); ++s) {
    const Tensor& load = out.at(round_of(kLoad, s));
    double total = 0.0;
    for (std::int64_t e = 0; e < load.size(); ++e) total += load[e];
    change(out, round_of(kBias, s), [&](std::int64_t e, double after) {
      const auto at = static_cast<std::size_t>(e);
      wrong[at] += restep(e, after - before[at], total / static_cast<double>(load.size()) - load[e]);
      before[at] = after;
      return wrong[at];
    });
  }
  return out;
}

NamedTensors step_by_gap(Implementation& sound, const Call& call) {
  return restepped(sound, call, [](std::int64_t, double step, double gap) { return step * std::abs(gap); });
}

NamedTensors step_at_the_mean(Implementation& sound, const Call& call) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  const double factor = call.config.at("gate_bias_update_factor");
  return restepped(sound, call,
                   [&](std::int64_t, double step, double gap) { return gap == 0.0 ? factor : step; });
}

NamedTensors last_expert_keeps_its_bias(Implementation& sound, const Call& call) {
  const std::int64_t last = is(call, Component::bias_update) ? size(call, "n_routed_experts") - 1 : 0;
  return restepped(sound, call, [&](std::int64_t e, double step, double) { return e == last ? 0.0 : step; });
}

NamedTensors updates_outside_training(Implementation& sound, const Call& call) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  Call training = call;
  training.options["training"] = true;
  return sound.run(training);
}

/// "outputs/indices_0_1" of a call for one round as that of `round`: "outputs/indices_2_1".
std::string as_round(const std::string& name, std::int64_t round) {
  const std::size_t at = name.find("_0");
  return at == std::string::npos ? name
                                 : name.substr(0, at + 1) + std::to_string(round) + name.substr(at + 2);
}

/// Round after round as calls of their own, each with the step of its bias reversed.
NamedTensors loop_unbalances(Implementation& sound, const Call& call) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  NamedTensors out;
  Call one = call;
  one.options["steps"] = 1;
  const std::int64_t steps = parse_call_options(call.options).steps;
  for (std::int64_t s = 0; s < steps; ++s) {
    std::erase_if(one.tensors, [](const auto& entry) { return entry.first.starts_with("inputs/"); });
    for (const auto& [name, tensor] : call.tensors)
      for (const char* stem : {"inputs/x_", "inputs/token_mask_", "inputs/replay_indices_"})
        if (const std::string round = stem + std::to_string(s) + "_"; name.starts_with(round))
          one.tensors[stem + ("0_" + name.substr(round.size()))] = tensor;
    NamedTensors results = sound.run(one);
    Tensor& bias = one.tensors.at("params/e_score_correction_bias");
    change(results, round_of(kBias, 0), [&](std::int64_t e, double after) { return 2.0 * bias[e] - after; });
    const Tensor& next = results.at(round_of(kBias, 0));
    for (std::int64_t e = 0; e < bias.size(); ++e) bias.set(e, next[e]);
    for (auto& [name, tensor] : results) out[as_round(name, s)] = tensor;
  }
  return out;
}

NamedTensors last_token_left_out(Implementation& sound, const Call& call) {
  if (!is(call, Component::aux_loss)) return sound.run(call);
  const std::int64_t tokens = call.tensors.at("inputs/indices").extent(0);
  if (tokens < 2) return sound.run(call);
  Call fewer = call;
  Tensor& mask = fewer.tensors["inputs/token_mask"];
  if (mask.size() != tokens || mask.dtype() != DType::boolean) mask = filled(DType::boolean, {tokens}, 1.0);
  mask.set(tokens - 1, 0.0);
  return sound.run(fewer);
}

NamedTensors loss_times_slots(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::aux_loss)) return out;
  const auto k = static_cast<double>(call.tensors.at("inputs/indices").extent(1));
  change(out, "outputs/aux_loss", [&](std::int64_t, double loss) { return k * loss; });
  return out;
}

NamedTensors loss_gradient_doubled(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::aux_loss))
    change(out, "grads/original_scores", [](std::int64_t, double g) { return 2.0 * g; });
  return out;
}

NamedTensors biases_drawn_too(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::init)) return out;
  const double deviation = parse_call_options(call.options).init_std;
  for (auto& [name, tensor] : out)
    if (name.ends_with("bias"))
      change(out, name, [&](std::int64_t i, double) { return i % 2 == 0 ? deviation : -deviation; });
  return out;
}

NamedTensors experts_drawn_backwards(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : out) {
    if (!is(call, Component::init) || !name.starts_with("outputs/experts.")) continue;
    std::vector<std::int64_t> order;
    for (std::int64_t e = tensor.extent(0); e > 0; --e) order.push_back(e - 1);
    tensor = take(tensor, 0, order);
  }
  return out;
}

NamedTensors last_layer_is_the_mean(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::metrics)) return out;
  const Tensor& cv = out.at("outputs/cv");
  if (cv.size() == 0) return out;
  const double last = cv[cv.size() - 1];
  change(out, "outputs/cv_mean", [&](std::int64_t, double) { return last; });
  return out;
}

NamedTensors last_expert_not_counted(Implementation& sound, const Call& call) {
  if (!is(call, Component::metrics)) return sound.run(call);
  Call fewer = call;
  Tensor& load = fewer.tensors.at("inputs/expert_load");
  const std::int64_t experts = load.shape().back();
  for (std::int64_t i = experts - 1; i < load.size(); i += experts) load.set(i, 0.0);
  return sound.run(fewer);
}

NamedTensors one_added_to_the_mean(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::metrics)) return out;
  const Matrix load = matrix_of(call.tensors.at("inputs/expert_load"));
  change(out, "outputs/cv", [&](std::int64_t layer, double cv) {
    double total = 0.0;
    for (std::int64_t e = 0; e < load.cols; ++e) total += load.at(layer, e);
    const double mean = total / static_cast<double>(load.cols);
    return cv * mean / (mean + 1.0);
  });
  return out;
}

NamedTensors deals_anew_for_each_token(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::fake_balanced_gate)) return out;
  const Tensor ids = out.at("outputs/indices");
  const std::int64_t k = ids.extent(1);
  change(out, "outputs/indices", [&](std::int64_t i, double) { return ids[i % k]; });
  return out;
}

NamedTensors noise_of_one_seed(Implementation& sound, const Call& call) {
  if (!is(call, Component::fake_balanced_gate)) return sound.run(call);
  Call other = call;
  fill(other, "inputs/x", 0.0);
  return sound.run(other);
}

NamedTensors seed_of_all_values(Implementation& sound, const Call& call) {
  if (!is(call, Component::fake_balanced_gate)) return sound.run(call);
  Call other = call;
  Tensor& x = other.tensors.at("inputs/x");
  double rest = 0.0;
  for (std::int64_t i = 4; i < x.size(); ++i) rest += x[i];
  if (x.size() > 4) x.set(0, x[0] + rest);
  return sound.run(other);
}

NamedTensors noise_applied_twice(Implementation& sound, const Call& call) {
  if (!is(call, Component::fake_balanced_gate)) return sound.run(call);
  Call other = call;
  const double noise = call.options.value("noise", 0.0);
  if (noise > 0.0) other.options["noise"] = 1.0 - (1.0 - noise) * (1.0 - noise);
  return sound.run(other);
}

NamedTensors balanced_gate_masks(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  if (!is(call, Component::fake_balanced_gate) || !mask) return out;
  const std::int64_t k = out.at("outputs/weights").extent(1);
  change(out, "outputs/weights", [&](std::int64_t i, double w) { return (*mask)[i / k] != 0.0 ? w : 0.0; });
  return out;
}

}  // namespace

std::span<const Mutant> update_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "step_by_gap",
       .components = {Component::bias_update},
       .does = "steps are multiplied by the distance from the mean load",
       .shows = "S",
       .first_wrong = "outputs/e_score_correction_bias*",
       .property = "doubled_loads linear_growth save_and_load",
       .run = step_by_gap},
      {.name = "step_at_the_mean",
       .components = {Component::bias_update},
       .does = "an expert at the mean load has its bias raised",
       .shows = "S",
       .first_wrong = "outputs/e_score_correction_bias*",
       .property = "update_fixed_point antisymmetric_update",
       .run = step_at_the_mean},
      {.name = "last_expert_keeps_its_bias",
       .components = {Component::bias_update},
       .does = "the last expert is left out of the update",
       .shows = "S",
       .first_wrong = "outputs/e_score_correction_bias*",
       .property = "update_expert_permutation",
       .run = last_expert_keeps_its_bias},
      {.name = "updates_outside_training",
       .bug = "A18",
       .source = "NeMo AutoModel 564ff4f2",
       .components = {Component::bias_update},
       .does = "an update outside training is no error",
       .shows = "S",
       .first_wrong = "",
       .property = "update_needs_training",
       .run = updates_outside_training},
      {.name = "loop_unbalances",
       .components = {Component::bias_update},
       .does = "the bias of overloaded experts is raised, and routing follows it",
       .shows = "S",
       .first_wrong = "outputs/e_score_correction_bias* outputs/indices*",
       .property = "closed_loop",
       .run = loop_unbalances},
      {.name = "last_token_left_out",
       .components = {Component::aux_loss},
       .does = "the last token counts neither in the loss nor in the load",
       .first_wrong = "outputs/expert_load outputs/aux_loss",
       .property = "loss_permutation doubled_batch split_batch",
       .run = last_token_left_out},
      {.name = "loss_times_slots",
       .bug = "M13",
       .source = "Megatron-LM 5c8eb08f66",
       .components = {Component::aux_loss},
       .does = "loads are not divided by the number of slots per token",
       .first_wrong = "outputs/aux_loss",
       .property = "concentrated_loss largest_loss",
       .run = loss_times_slots},
      {.name = "loss_gradient_doubled",
       .bug = "M30",
       .source = "Megatron-LM #7452",
       .components = {Component::aux_loss},
       .does = "the gradient of the loss is doubled",
       .shows = "G",
       .first_wrong = "grads/original_scores",
       .property = "frozen_counts gradient_of_load",
       .run = loss_gradient_doubled},
      {.name = "biases_drawn_too",
       .components = {Component::init},
       .does = "biases start at plus and minus the deviation",
       .first_wrong = "outputs/*",
       .property = "initialised_parts",
       .run = biases_drawn_too},
      {.name = "experts_drawn_backwards",
       .components = {Component::init},
       .does = "experts are drawn from the last to the first",
       .first_wrong = "outputs/experts.*",
       .property = "local_experts more_experts",
       .run = experts_drawn_backwards},
      {.name = "last_layer_is_the_mean",
       .components = {Component::metrics},
       .does = "the mean over layers is the value of the last one",
       .first_wrong = "outputs/cv_mean",
       .property = "metric_aggregates metric_layer_permutation",
       .run = last_layer_is_the_mean},
      {.name = "last_expert_not_counted",
       .components = {Component::metrics},
       .does = "metrics leave the last expert out",
       .first_wrong = "outputs/*",
       .property = "metric_expert_permutation metric_extremes",
       .run = last_expert_not_counted},
      {.name = "one_added_to_the_mean",
       .components = {Component::metrics},
       .does = "1 is added to the mean load before the division",
       .first_wrong = "outputs/cv*",
       .property = "metric_scale",
       .run = one_added_to_the_mean},
      {.name = "deals_anew_for_each_token",
       .components = {Component::fake_balanced_gate},
       .does = "every token gets the experts of the first",
       .first_wrong = "outputs/indices",
       .property = "balanced_loads",
       .run = deals_anew_for_each_token},
      {.name = "noise_of_one_seed",
       .components = {Component::fake_balanced_gate},
       .does = "noise does not depend on x",
       .first_wrong = "outputs/indices outputs/weights",
       .property = "noise_of_seed",
       .run = noise_of_one_seed},
      {.name = "seed_of_all_values",
       .components = {Component::fake_balanced_gate},
       .does = "the noise is seeded by all values of x",
       .first_wrong = "outputs/indices outputs/weights",
       .property = "seed_of_x",
       .run = seed_of_all_values},
      {.name = "noise_applied_twice",
       .components = {Component::fake_balanced_gate},
       .does = "noise is mixed in twice",
       .first_wrong = "outputs/indices outputs/weights",
       .property = "noise_scale",
       .run = noise_applied_twice},
      {.name = "balanced_gate_masks",
       .components = {Component::fake_balanced_gate},
       .does = "masked tokens get weights of 0",
       .first_wrong = "outputs/weights",
       .property = "mask_ignored balanced_well_formed",
       .run = balanced_gate_masks},
  };
  return kRows;
}

}  // namespace moeref
