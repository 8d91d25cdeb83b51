// Wrong backward passes: see planted_bugs.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/layer/tests/layer_bug_parts.hpp"

namespace moeref {
namespace {

/// Whether any live slot is of the expert.
bool has_tokens(const Call& call, const NamedTensors& results, std::int64_t expert) {
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids) ids = &results.at("outputs/indices");
  for (std::int64_t i = 0; i < ids->size(); ++i)
    if ((*ids)[i] == static_cast<double>(expert) && is_live(call, i / ids->extent(1))) return true;
  return false;
}

NamedTensors empty_gradient_uninitialised(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!call.backward || (!is(call, Component::experts) && !is(call, Component::moe))) return out;
  const std::int64_t experts = size(call, "n_routed_experts");
  change(out, expert_tensor(call.component, "grads", "down_projs"), [&](std::int64_t i, double g) {
    const std::int64_t width = size(call, "moe_inter_dim") * parse_moe_config(call.config).expert_dim();
    return i / width < experts && !has_tokens(call, out, i / width) ? 1e-30 : g;
  });
  return out;
}

NamedTensors down_gradient_transposed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) || !call.backward) return out;
  const Tensor from = out.at("grads/down_projs");
  const std::int64_t rows = from.extent(1), cols = from.extent(2), block = rows * cols;
  change(out, "grads/down_projs", [&](std::int64_t i, double) {
    const std::int64_t r = i % block / cols, c = i % cols;
    return from[i / block * block + (c * rows + r)];
  });
  return out;
}

NamedTensors gate_gradient_misses_slope(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::mlp))
    change(out, "grads/gate_proj.weight", [](std::int64_t, double g) { return 0.9 * g; });
  return out;
}

NamedTensors loss_gradient_dropped(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.backward) return sound.run(call);
  NamedTensors out = sound.run(with_config(call, {{"aux_loss_coeff", 0.0}}));
  for (auto& [name, tensor] : sound.run(call))
    if (name.starts_with("outputs/")) out[name] = tensor;
  return out;
}

NamedTensors weights_detached(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe)) return out;
  for (const char* name : {"grads/gate.weight", "grads/gate.bias"})
    change(out, name, [](std::int64_t, double) { return 0.0; });
  return out;
}

NamedTensors cotangent_of_next_token(Implementation& sound, const Call& call) {
  if (!is(call, Component::mlp) || !call.backward) return sound.run(call);
  Call shifted = call;
  const std::int64_t tokens = call.tensors.at("inputs/x").extent(0);
  std::vector<std::int64_t> next;
  for (std::int64_t t = 0; t < tokens; ++t) next.push_back((t + 1) % tokens);
  take_in(shifted, "cotangents/y", 0, next);
  return sound.run(shifted);
}

NamedTensors gradients_clipped(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : out)
    if (name.starts_with("grads/"))
      change(out, name, [](std::int64_t, double g) { return std::clamp(g, -1.0, 1.0); });
  return out;
}

/// The loss's gradient replaces that of the output instead of joining it.
NamedTensors loss_overwrites_output_gradient(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.backward || call.config.value("aux_loss_coeff", 0.0) == 0.0)
    return sound.run(call);
  Call quiet = call;
  fill(quiet, "cotangents/y", 0.0);
  return with_results_of(sound, call, quiet, "grads/gate.");
}

NamedTensors loss_gradient_times_tokens(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.backward) return sound.run(call);
  const Tensor& x = call.tensors.at("inputs/x");
  const double coefficient = call.config.value("aux_loss_coeff", 0.0),
               tokens = static_cast<double>(std::max<std::int64_t>(x.size() / size(call, "dim"), 1));
  return with_results_of(sound, call, with_config(call, {{"aux_loss_coeff", tokens * coefficient}}),
                         "grads/");
}

NamedTensors x_gradient_without_weight(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || !call.backward) return sound.run(call);
  Call ones = call;
  fill(ones, "inputs/weights", 1.0);
  return with_results_of(sound, call, ones, "grads/x");
}

NamedTensors bias_gradient_without_weight(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || !call.backward) return sound.run(call);
  Call ones = call;
  fill(ones, "inputs/weights", 1.0);
  return with_results_of(sound, call, ones, "grads/down_proj_bias");
}

/// Parameter gradients are added up in 16 bits, but for float64.
NamedTensors gradient_summed_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const auto found = out.find("grads/down_projs");
  if (is(call, Component::experts) && found != out.end() &&
      call.config.value("dtype", "bfloat16") != "float64")
    found->second = found->second.cast(DType::bfloat16).cast(found->second.dtype());
  return out;
}

/// Backward of the normalisation left out: the sum of the selected scores is taken for a constant.
NamedTensors normalisation_taken_for_constant(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward || !call.config.value("norm_topk_prob", false))
    return sound.run(call);
  return with_results_of(sound, call, with_config(call, {{"norm_topk_prob", false}}), "grads/");
}

constexpr PlantedBug kBugs[] = {
    {"empty_gradient_uninitialised", "O25", "zero_token_expert", empty_gradient_uninitialised},
    {"down_gradient_transposed", "", "linear_adjoint", down_gradient_transposed},
    {"gate_gradient_misses_slope", "", "central_differences", gate_gradient_misses_slope},
    {"loss_gradient_dropped", "A1", "layer_loss_scale", loss_gradient_dropped},
    {"loss_gradient_dropped", "A1", "central_differences", loss_gradient_dropped},
    {"weights_detached", "A20", "gate_gradient_rows", weights_detached},
    {"cotangent_of_next_token", "", "central_differences", cotangent_of_next_token},
    {"gradients_clipped", "", "linear_cotangent", gradients_clipped},
    {"loss_overwrites_output_gradient", "A20", "loss_beside_output", loss_overwrites_output_gradient},
    {"loss_gradient_times_tokens", "A2", "central_differences", loss_gradient_times_tokens},
    {"x_gradient_without_weight", "", "central_differences", x_gradient_without_weight},
    {"bias_gradient_without_weight", "A46", "linear_adjoint", bias_gradient_without_weight},
    {"bias_gradient_without_weight", "A46", "down_bias", bias_gradient_without_weight},
    {"gradient_summed_in_bfloat16", "A46", "dtype_ladder", gradient_summed_in_bfloat16},
    {"normalisation_taken_for_constant", "", "central_differences", normalisation_taken_for_constant},
};

}  // namespace

std::span<const PlantedBug> planted_gradient_bugs() { return kBugs; }

}  // namespace moeref
