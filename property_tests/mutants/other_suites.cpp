// What the published tests of other projects let through (reference_cpu/VERDICTS.md): it must not pass here.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

template <typename F>
NamedTensors with_y(Implementation& sound, const Call& call, F&& f) {
  NamedTensors out = sound.run(call);
  if (gives_y(call)) change_rows(out, "outputs/y", f);
  return out;
}

NamedTensors output_halved(Implementation& sound, const Call& call) {
  return with_y(sound, call, [](std::int64_t, std::int64_t, double v) { return 0.5 * v; });
}
NamedTensors output_half_as_large_again(Implementation& sound, const Call& call) {
  return with_y(sound, call, [](std::int64_t, std::int64_t, double v) { return 1.5 * v; });
}
NamedTensors one_token_in_20_zeroed(Implementation& sound, const Call& call) {
  return with_y(sound, call, [](std::int64_t t, std::int64_t, double v) { return t % 20 == 19 ? 0.0 : v; });
}
NamedTensors last_two_tokens_swapped(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call) || token_count(call) < 2) return out;
  const Tensor y = out.at("outputs/y");
  const std::int64_t dim = y.shape().back(), last = token_count(call) - 1;
  change_rows(out, "outputs/y", [&](std::int64_t t, std::int64_t c, double v) {
    return t < last - 1 ? v : y[(2 * last - 1 - t) * dim + c];
  });
  return out;
}
NamedTensors noise_of_a_twentieth(Implementation& sound, const Call& call) {
  return with_y(sound, call, [](std::int64_t t, std::int64_t c, double v) {
    return v * (1.0 + 0.05 * scatter(1000 * t + c));
  });
}
NamedTensors noise_as_large_as_output(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!gives_y(call)) return out;
  double squares = 0.0;
  const std::vector<double> y = out.at("outputs/y").doubles();
  for (const double v : y) squares += std::isfinite(v) ? v * v : 0.0;
  const double size = std::sqrt(squares / static_cast<double>(std::max<std::size_t>(y.size(), 1)));
  change(out, "outputs/y", [&](std::int64_t i, double v) { return 0.22 * v + size * scatter(i); });
  return out;
}
NamedTensors three_in_100_elements_wrong(Implementation& sound, const Call& call) {
  return with_y(sound, call, [](std::int64_t t, std::int64_t c, double v) {
    return scatter(1000 * t + c) > 0.94 ? -v : v;
  });
}

NamedTensors ids_and_weights_decoupled(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::gate)) return out;
  const Tensor w = out.at("outputs/weights");
  change(out, "outputs/weights", [&](std::int64_t i, double) { return w[(i + 1) % w.size()]; });
  return out;
}
NamedTensors ids_of_two_tokens_swapped(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::gate) || token_count(call) < 2) return out;
  const Tensor ids = out.at("outputs/indices");
  const std::int64_t k = ids.extent(1);
  change_rows(out, "outputs/indices",
              [&](std::int64_t t, std::int64_t j, double id) { return t < 2 ? ids[(1 - t) * k + j] : id; });
  return out;
}
NamedTensors weights_sorted_alone(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::gate)) return out;
  const Tensor w = out.at("outputs/weights");
  const std::int64_t k = w.extent(1);
  for (std::int64_t t = 0; t < w.extent(0); ++t) {
    std::vector<double> own;
    for (std::int64_t j = 0; j < k; ++j) own.push_back(w[t * k + j]);
    std::ranges::sort(own);
    for (std::int64_t j = 0; j < k; ++j)
      out.at("outputs/weights").set(t * k + j, own[static_cast<std::size_t>(j)]);
  }
  return out;
}

NamedTensors no_gradient_where_normalised(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::gate, C::moe}) || !call.backward || !normalises(call)) return out;
  for (const char* name : {"grads/weight", "grads/bias", "grads/gate.weight", "grads/gate.bias"})
    change(out, name, [](std::int64_t, double) { return 0.0; });
  return out;
}
/// Right where the cotangent is all ones: the sum of the outputs for a loss.
NamedTensors gradient_of_the_sum(Implementation& sound, const Call& call) {
  if (!call.backward || !is_one_of(call, {C::gate, C::experts, C::mlp, C::moe})) return sound.run(call);
  Call ones = call;
  for (const char* name : {"cotangents/y", "cotangents/weights"}) fill(ones, name, 1.0);
  return sound.run(ones);
}
NamedTensors gradients_off_by_a_tenth(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : out)
    if (name.starts_with("grads/"))
      change(out, name, [](std::int64_t i, double g) { return g * (1.0 + 0.1 * scatter(i)); });
  return out;
}
NamedTensors bias_changes_at_random(Implementation& sound, const Call& call) {
  return with_bias_step(sound, call, [](std::vector<double> bias, const std::vector<double>&, double factor) {
    for (std::size_t e = 0; e < bias.size(); ++e)
      bias[e] += factor * (scatter(static_cast<std::int64_t>(e)) > 0.0 ? 1.0 : -1.0);
    return bias;
  });
}
NamedTensors everything_zero(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : out) tensor = Tensor(tensor.dtype(), tensor.shape());
  return out;
}
NamedTensors inputs_handed_back(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (gives_y(call))
    change(out, "outputs/y", [&](std::int64_t i, double) { return call.tensors.at("inputs/x")[i]; });
  return out;
}

const Mutant kOtherSuiteMutants[] = {
    {"output_halved", "", "FlashInfer's FP4 helper", kFeedForwards, "the output is half as large", "F",
     "outputs/y", "within_bounds", output_halved},
    {"output_half_as_large_again", "", "FlashInfer's FP4 helper", kFeedForwards,
     "the output is 1.5 times as large", "F", "outputs/y", "within_bounds", output_half_as_large_again},
    {"one_token_in_20_zeroed", "", "FlashInfer-Bench moe", kFeedForwards,
     "one token in 20 has an output of 0", "F", "outputs/y", "", one_token_in_20_zeroed},
    {"three_in_100_elements_wrong", "", "FlashInfer's FP4 helper", kFeedForwards,
     "3 % of the elements have the wrong sign", "F", "outputs/y", "within_bounds",
     three_in_100_elements_wrong},
    {"last_two_tokens_swapped", "", "ggml test_topk_moe", kFeedForwards,
     "the outputs of the last two tokens change places", "F", "outputs/y", "row_order",
     last_two_tokens_swapped},
    {"ids_and_weights_decoupled",
     "",
     "ggml test_topk_moe",
     {C::gate},
     "each weight stands one slot from its expert",
     "F",
     "outputs/weights",
     "unbiased_weights",
     ids_and_weights_decoupled},
    {"ids_of_two_tokens_swapped",
     "",
     "ggml test_topk_moe",
     {C::gate},
     "two tokens have each other's experts",
     "F",
     "outputs/indices outputs/weights",
     "lone_tokens",
     ids_of_two_tokens_swapped},
    {"weights_sorted_alone",
     "",
     "ggml test_topk_moe",
     {C::gate},
     "weights are sorted and experts are not",
     "F",
     "outputs/weights",
     "unbiased_weights",
     weights_sorted_alone},
    {"no_gradient_where_normalised",
     "",
     "TransformerEngine's router test",
     {C::gate, C::moe},
     "the gate has no gradient where weights are normalised",
     "G",
     "grads/bias grads/weight grads/gate.bias grads/gate.weight",
     "central_differences",
     no_gradient_where_normalised},
    {"gradient_of_the_sum",
     "",
     "tests whose loss is the sum",
     {C::gate, C::experts, C::mlp, C::moe},
     "gradients are those of the sum of the outputs",
     "G",
     "grads/bias grads/weight grads/x grads/weights grads/down_proj_bias grads/down_projs "
     "grads/down_proj.bias "
     "grads/down_proj.weight grads/experts.down_proj_bias grads/experts.down_projs "
     "grads/shared_experts.down_proj.weight",
     "central_differences",
     gradient_of_the_sum},
    {"gradients_off_by_a_tenth",
     "",
     "llm.c bf16",
     {C::gate, C::aux_loss, C::experts, C::mlp, C::moe},
     "each gradient errs by up to a tenth",
     "G",
     "grads/bias grads/weight grads/x grads/original_scores grads/weights grads/down_proj_bias "
     "grads/down_projs "
     "grads/down_proj.bias grads/down_proj.weight grads/experts.down_proj_bias grads/experts.down_projs "
     "grads/shared_experts.down_proj.weight",
     "central_differences",
     gradients_off_by_a_tenth},
    {"noise_of_a_twentieth", "", "llm.c bf16", kFeedForwards, "each output errs by up to a twentieth", "F",
     "outputs/y", "within_bounds", noise_of_a_twentieth},
    {"noise_as_large_as_output", "O12", "aiter #4398", kFeedForwards,
     "the output has a cosine of 0.22 with the right one", "F", "outputs/y", "within_bounds",
     noise_as_large_as_output},
    {"bias_changes_at_random",
     "",
     "Megatron-LM's bias test",
     {C::bias_update},
     "each bias takes a step, up or down by chance",
     "S",
     kUpdatedBias,
     "sign_rule",
     bias_changes_at_random},
    {"everything_zero",
     "",
     "",
     {C::gate, C::aux_loss, C::bias_update, C::fake_balanced_gate, C::mlp, C::experts, C::moe, C::init,
      C::metrics},
     "every result is 0",
     "F",
     "outputs/indices outputs/weights outputs/expert_load outputs/y outputs/indices_0_0 "
     "outputs/cumulative_expert_load_0 "
     "outputs/experts.down_projs outputs/cv outputs/dead_expert_frac outputs/expert_diversity grads/weights",
     "within_bounds",
     everything_zero},
    {"inputs_handed_back", "", "", kFeedForwards, "the output is x", "F", "outputs/y", "within_bounds",
     inputs_handed_back},
};

}  // namespace

std::span<const Mutant> other_suite_mutants() { return kOtherSuiteMutants; }

}  // namespace moeref
