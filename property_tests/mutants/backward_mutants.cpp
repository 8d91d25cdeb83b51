// Wrong backward passes: see mutant.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/mutant_parts.hpp"

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
  if (!has_weights(call) || !call.backward) return out;
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

NamedTensors layer_loss_gradient_dropped(Implementation& sound, const Call& call) {
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

NamedTensors layer_loss_gradient_times_tokens(Implementation& sound, const Call& call) {
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

}  // namespace

std::span<const Mutant> backward_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "empty_gradient_uninitialised",
       .bug = "O25",
       .source = "grouped_gemm #36",
       .components = {Component::experts, Component::moe},
       .does = "the gradient of an expert without tokens is left as the buffer held it",
       .shows = "G",
       .first_wrong = "grads/down_projs grads/experts.down_projs",
       .property = "zero_token_expert",
       .run = empty_gradient_uninitialised},
      {.name = "down_gradient_transposed",
       .components = {Component::experts},
       .does = "the gradient of the down projection is transposed",
       .shows = "G",
       .first_wrong = "grads/down_projs",
       .property = "linear_adjoint",
       .run = down_gradient_transposed},
      {.name = "gate_gradient_misses_slope",
       .components = {Component::mlp},
       .does = "the gradient of the gate projection is a tenth too small",
       .shows = "G",
       .first_wrong = "grads/gate_proj.weight",
       .property = "central_differences",
       .run = gate_gradient_misses_slope},
      {.name = "layer_loss_gradient_dropped",
       .bug = "A1",
       .source = "NeMo AutoModel #1412",
       .components = {Component::moe},
       .does = "the auxiliary loss has no gradient",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "layer_loss_scale central_differences",
       .run = layer_loss_gradient_dropped},
      {.name = "weights_detached",
       .bug = "A20",
       .source = "NeMo AutoModel #2995",
       .components = {Component::moe},
       .does = "the gate gets no gradient",
       .shows = "G",
       .first_wrong = "grads/gate.*",
       .property = "gate_gradient_rows",
       .run = weights_detached},
      {.name = "cotangent_of_next_token",
       .components = {Component::mlp},
       .does = "each token takes the cotangent of the next",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "central_differences",
       .run = cotangent_of_next_token},
      {.name = "gradients_clipped",
       .components = {Component::gate, Component::aux_loss, Component::mlp, Component::experts,
                      Component::moe},
       .does = "gradients are clamped to 1",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "linear_cotangent",
       .run = gradients_clipped},
      {.name = "loss_overwrites_output_gradient",
       .bug = "A20",
       .source = "NeMo AutoModel #2995",
       .components = {Component::moe},
       .does = "the gradient of the loss replaces that of the output in the gate",
       .shows = "G",
       .first_wrong = "grads/gate.*",
       .property = "loss_beside_output",
       .run = loss_overwrites_output_gradient},
      {.name = "layer_loss_gradient_times_tokens",
       .bug = "A2",
       .source = "NeMo AutoModel #1412",
       .components = {Component::moe},
       .does = "the gradient of the auxiliary loss is multiplied by the number of tokens",
       .shows = "G",
       .first_wrong = "grads/*",
       .property = "central_differences",
       .run = layer_loss_gradient_times_tokens},
      {.name = "x_gradient_without_weight",
       .components = {Component::experts},
       .does = "the gradient of x lacks the routing weights",
       .shows = "G",
       .first_wrong = "grads/x",
       .property = "central_differences",
       .run = x_gradient_without_weight},
      {.name = "bias_gradient_without_weight",
       .bug = "A46",
       .source = "NeMo AutoModel #3387",
       .components = {Component::experts},
       .does = "the gradient of the bias after the down projection lacks the routing weights",
       .shows = "G",
       .first_wrong = "grads/down_proj_bias",
       .property = "linear_adjoint down_bias",
       .run = bias_gradient_without_weight},
      {.name = "gradient_summed_in_bfloat16",
       .bug = "A46",
       .source = "NeMo AutoModel #3387",
       .components = {Component::experts},
       .does = "the gradient of the down projection is rounded to 16 bits, but for float64",
       .shows = "G P",
       .first_wrong = "grads/down_projs",
       .property = "dtype_ladder",
       .run = gradient_summed_in_bfloat16,
       .not_in_bfloat16 = "its gradients are of 16 bits anyway"},
  };
  return kRows;
}

}  // namespace moeref
