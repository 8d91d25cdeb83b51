// Updates of the correction bias, metrics and initialisations that are wrong.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;
using Numbers = std::vector<double>;

double sign(double v) { return v > 0.0 ? 1.0 : v < 0.0 ? -1.0 : 0.0; }
double mean_of(const Numbers& v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(std::max<std::size_t>(v.size(), 1));
}

/// Each bias plus step(mean, load) times the factor.
template <typename F>
NamedTensors with_step(Implementation& sound, const Call& call, F&& step) {
  return with_bias_step(sound, call, [&](Numbers bias, const Numbers& load, double factor) {
    const double mean = mean_of(load);
    for (std::size_t e = 0; e < bias.size(); ++e) bias[e] += factor * step(mean, load[e]);
    return bias;
  });
}

NamedTensors bias_never_updated(Implementation& sound, const Call& call) {
  return with_bias_step(sound, call, [](Numbers bias, const Numbers&, double) { return bias; });
}
NamedTensors bias_step_doubled(Implementation& sound, const Call& call) {
  return with_step(sound, call, [](double mean, double load) { return 2.0 * sign(mean - load); });
}
NamedTensors bias_step_in_proportion(Implementation& sound, const Call& call) {
  return with_step(sound, call,
                   [](double mean, double load) { return mean > 0.0 ? (mean - load) / mean : 0.0; });
}
NamedTensors bias_moves_at_the_mean(Implementation& sound, const Call& call) {
  return with_step(sound, call, [](double mean, double load) { return mean >= load ? 1.0 : -1.0; });
}
NamedTensors mean_load_truncated(Implementation& sound, const Call& call) {
  return with_step(sound, call, [](double mean, double load) { return sign(std::floor(mean) - load); });
}
NamedTensors counts_in_bfloat16(Implementation& sound, const Call& call) {
  return with_bias_step(sound, call, [](Numbers bias, Numbers load, double factor) {
    for (double& l : load) l = round_to(DType::bfloat16, l);
    const double mean = round_to(DType::bfloat16, mean_of(load));
    for (std::size_t e = 0; e < bias.size(); ++e) bias[e] += factor * sign(mean - load[e]);
    return bias;
  });
}
NamedTensors bias_centred(Implementation& sound, const Call& call) {
  return with_bias_step(sound, call, [](Numbers bias, const Numbers& load, double factor) {
    const double mean = mean_of(load);
    for (std::size_t e = 0; e < bias.size(); ++e) bias[e] += factor * sign(mean - load[e]);
    const double middle = mean_of(bias);
    for (double& b : bias) b -= middle;
    return bias;
  });
}

NamedTensors load_never_cleared(Implementation& sound, const Call& call) {
  Numbers all;
  NamedTensors out = with_bias_step(sound, call, [&](Numbers bias, const Numbers& load, double factor) {
    all.resize(load.size());
    for (std::size_t e = 0; e < load.size(); ++e) all[e] += load[e];
    const double mean = mean_of(all);
    for (std::size_t e = 0; e < bias.size(); ++e) bias[e] += factor * sign(mean - all[e]);
    return bias;
  });
  return out;
}

NamedTensors saved_bias_is_the_first(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::bias_update)) return out;
  const Tensor& first = call.tensors.at("params/e_score_correction_bias");
  for (auto& [name, bias] : out)
    if (name.starts_with("outputs/e_score_correction_bias"))
      change(out, name, [&](std::int64_t e, double) { return first[e]; });
  return out;
}

NamedTensors bias_in_float16(Implementation& sound, const Call& call) {
  return with_bias_step(sound, call, [](Numbers bias, const Numbers& load, double factor) {
    const double mean = mean_of(load);
    for (std::size_t e = 0; e < bias.size(); ++e)
      bias[e] = round_to(DType::float16, bias[e] + factor * sign(mean - load[e]));
    return bias;
  });
}

NamedTensors drawn_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::init))
    for (auto& [name, tensor] : out) tensor = tensor.cast(DType::bfloat16).cast(tensor.dtype());
  return out;
}

NamedTensors gate_half_fixed_deviation(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::init) || !parse_moe_config(call.config).gated_experts()) return out;
  const double std = parse_call_options(call.options).init_std;
  const std::int64_t width = size(call, "moe_inter_dim");
  change_rows(out, "outputs/experts.gate_and_up_projs", [&](std::int64_t, std::int64_t column, double v) {
    return column < width && std > 0.0 ? v * (0.02 / std) : v;
  });
  return out;
}

/// A uniform number of the same deviation in place of each normal one.
NamedTensors drawn_uniform(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const double std = is(call, C::init) ? parse_call_options(call.options).init_std : 0.0;
  if (is(call, C::init))
    for (auto& [name, tensor] : out)
      if (name.ends_with("projs") || name.ends_with("gate.weight"))
        change(out, name, [&](std::int64_t, double v) {
          return std > 0.0 ? std * std::sqrt(3.0) * std::erf(v / std / std::sqrt(2.0)) : v;
        });
  return out;
}

NamedTensors draws_cut_at_two_deviations(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::init)) return out;
  const double most = 2.0 * parse_call_options(call.options).init_std;
  for (auto& [name, tensor] : out)
    if (name.ends_with("projs"))
      change(out, name, [&](std::int64_t, double v) { return std::clamp(v, -most, most); });
  return out;
}

NamedTensors experts_drawn_alike(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::init))
    for (auto& [name, tensor] : out)
      if (name.ends_with("projs") && name.starts_with("outputs/experts."))
        tensor = take(tensor, 0, IdList(static_cast<std::size_t>(tensor.extent(0)), 0));
  return out;
}

NamedTensors diversity_of_bits(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::metrics)) return out;
  const auto n = static_cast<double>(size(call, "n_routed_experts"));
  for (auto& [name, tensor] : out)
    if (name.starts_with("outputs/expert_diversity"))
      change(out, name,
             [&](std::int64_t, double v) { return v > 0.0 ? std::pow(v * n, 1.0 / std::log(2.0)) / n : v; });
  return out;
}

NamedTensors variation_without_tokens_is_nan(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::metrics)) return out;
  const Matrix load = matrix_of(call.tensors.at("inputs/expert_load"));
  change(out, "outputs/cv", [&](std::int64_t layer, double v) {
    double sum = 0.0;
    for (std::int64_t e = 0; e < load.cols; ++e) sum += load.at(layer, e);
    return sum > 0.0 ? v : kNotANumber;
  });
  return out;
}

NamedTensors layers_are_joined(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::metrics) || !out.contains("outputs/cv")) return out;
  const Matrix load = matrix_of(call.tensors.at("inputs/expert_load"));
  if (load.rows < 2) return out;
  Call sum = call;
  Tensor all(DType::int64, {1, load.cols});
  for (std::int64_t i = 0; i < load.rows * load.cols; ++i)
    all.set(i % load.cols, all[i % load.cols] + load.values[static_cast<std::size_t>(i)]);
  sum.tensors["inputs/expert_load"] = all;
  out.at("outputs/cv_mean") = sound.run(sum).at("outputs/cv_mean");
  return out;
}

const Mutant kBiasCatalogueMutants[] = {
    {"bias_never_updated",
     "A19",
     "NeMo AutoModel #532",
     {C::bias_update},
     "the training loop never asks for the update: the bias stays as it was",
     "S",
     kUpdatedBias,
     "sign_rule",
     bias_never_updated},
    {"bias_step_doubled",
     "",
     "a test that asserts only a change",
     {C::bias_update},
     "the step is twice the factor",
     "S",
     kUpdatedBias,
     "sign_rule",
     bias_step_doubled},
    {"bias_step_in_proportion",
     "",
     "",
     {C::bias_update},
     "the step is in proportion to the load's distance from the mean",
     "S",
     kUpdatedBias,
     "sign_rule",
     bias_step_in_proportion},
    {"bias_moves_at_the_mean",
     "",
     "",
     {C::bias_update},
     "an expert whose load is the mean takes a step, too",
     "S",
     kUpdatedBias,
     "update_fixed_point",
     bias_moves_at_the_mean},
    {"mean_load_truncated",
     "",
     "",
     {C::bias_update},
     "the mean load is a whole number, rounded down",
     "S",
     kUpdatedBias,
     "sign_rule",
     mean_load_truncated},
    {"counts_in_bfloat16",
     "M26",
     "Megatron-LM #7081",
     {C::bias_update},
     "loads are held in bfloat16: steps of large loads flip their sign",
     "S P",
     kUpdatedBias,
     "",
     counts_in_bfloat16},
    {"bias_centred",
     "",
     "",
     {C::bias_update},
     "the mean of all biases is taken off after each step",
     "S",
     kUpdatedBias,
     "sign_rule",
     bias_centred},
    {"load_never_cleared",
     "",
     "",
     {C::bias_update},
     "the load of earlier rounds counts again",
     "S",
     kUpdatedBias,
     "sign_rule",
     load_never_cleared},
    {"saved_bias_is_the_first",
     "O22",
     "torchtitan #1226",
     {C::bias_update},
     "the update binds a new buffer, and what is saved is the old one",
     "S",
     kUpdatedBias,
     "sign_rule",
     saved_bias_is_the_first},
    {"bias_in_float16",
     "O34",
     "vLLM #50761",
     {C::bias_update},
     "the bias is held in 16 bits: small steps vanish",
     "S P",
     kUpdatedBias,
     "linear_growth",
     bias_in_float16},
    {"drawn_in_bfloat16",
     "A44",
     "NeMo AutoModel #2450",
     {C::init},
     "values are drawn in bfloat16 for every type",
     "P",
     "outputs/experts.down_projs outputs/experts.gate_and_up_projs outputs/gate.weight",
     "one_draw",
     drawn_in_bfloat16},
    {"gate_half_fixed_deviation",
     "",
     "torchtitan #1257",
     {C::init},
     "the deviation of the gate half is 0.02, the one asked for or not",
     "F",
     "outputs/experts.gate_and_up_projs",
     "init_deviation",
     gate_half_fixed_deviation},
    {"drawn_uniform",
     "",
     "",
     {C::init},
     "experts and gate are drawn uniformly, with the right deviation",
     "F",
     "outputs/experts.down_projs",
     "normal_values",
     drawn_uniform},
    {"draws_cut_at_two_deviations",
     "",
     "",
     {C::init},
     "draws beyond two deviations are clamped",
     "F",
     "outputs/experts.down_projs outputs/experts.gate_and_up_projs",
     "",
     draws_cut_at_two_deviations},
    {"experts_drawn_alike",
     "",
     "",
     {C::init},
     "every expert begins as the first one",
     "F",
     "outputs/experts.down_projs",
     "uncorrelated_parameters",
     experts_drawn_alike},
    {"diversity_of_bits",
     "",
     "",
     {C::metrics},
     "e is raised to an entropy in bits",
     "F",
     "outputs/expert_diversity",
     "metric_definitions",
     diversity_of_bits},
    {"variation_without_tokens_is_nan",
     "",
     "",
     {C::metrics},
     "0 / 0 where a layer has no load",
     "F",
     "outputs/cv",
     "metric_extremes",
     variation_without_tokens_is_nan},
    {"layers_are_joined",
     "O33",
     "Qwen3 #1418",
     {C::metrics},
     "layers are added up before their mean variation is taken, so that imbalances cancel",
     "F",
     "outputs/cv_mean",
     "metric_aggregates",
     layers_are_joined},
};

}  // namespace

std::span<const Mutant> bias_catalogue_mutants() { return kBiasCatalogueMutants; }

}  // namespace moeref
