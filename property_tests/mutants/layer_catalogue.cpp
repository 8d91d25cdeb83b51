// Layers that were wrong in public: shared experts, latent projections, padding, replay.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

bool has_shared(const Call& call) { return is(call, C::moe) && size(call, "n_shared_experts") > 0; }

/// The sound results with shared experts that are called as `other` is: outputs and gradients of them, and
/// x's.
NamedTensors with_shared_of(Implementation& sound, const Call& call, const Call& other) {
  NamedTensors out = sound.run(call);
  add_difference(out, sound.run(shared_alone(other)), sound.run(shared_alone(call)),
                 {"outputs/y", "grads/shared_expert", "grads/x"});
  return out;
}

NamedTensors shared_without_limit(Implementation& sound, const Call& call) {
  if (!has_shared(call) || call.config.value("swiglu_limit", 0.0) == 0.0) return sound.run(call);
  return with_shared_of(sound, call, with_config(call, {{"swiglu_limit", 0.0}}));
}

NamedTensors shared_reads_overwritten_x(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_shared(call)) return out;
  Call forward = call;
  forward.backward = false;
  std::erase_if(forward.tensors, [](const auto& entry) { return entry.first.starts_with("cotangents/"); });
  const NamedTensors alone = sound.run(shared_alone(forward));
  Call other = forward;
  map_input(other, "inputs/x",
            [&](std::int64_t i, double) { return out.at("outputs/y")[i] - alone.at("outputs/y")[i]; });
  add_difference(out, sound.run(shared_alone(other)), alone, {"outputs/y"});
  return out;
}

NamedTensors shared_scaled_as_routed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_shared(call)) return out;
  const double scale = call.config.value("route_scale", 1.0);
  const NamedTensors alone = sound.run(shared_alone(call));
  change(out, "outputs/y",
         [&](std::int64_t i, double v) { return v + (scale - 1.0) * alone.at("outputs/y")[i]; });
  return out;
}

/// Of several shared experts, which are one wide MLP, the first alone.
NamedTensors one_shared_expert_alone(Implementation& sound, const Call& call) {
  if (!has_shared(call) || size(call, "n_shared_experts") < 2) return sound.run(call);
  Call other = call;
  const std::int64_t width = parse_moe_config(call.config).shared_dim(),
                     own = width / size(call, "n_shared_experts");
  map_input(other, "params/shared_experts.down_proj.weight",
            [&](std::int64_t i, double w) { return i % width < own ? w : 0.0; });
  return with_results_of(sound, call, other, "outputs/y");
}

NamedTensors shared_gate_twice(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* w = find(call.tensors, "params/shared_expert_gate.weight");
  if (!is(call, C::moe) || !w) return out;
  const NamedTensors alone = sound.run(shared_alone(call));
  const Tensor& x = call.tensors.at("inputs/x");
  const std::int64_t dim = size(call, "dim");
  change(out, "outputs/y", [&](std::int64_t i, double v) {
    double z = 0.0;
    for (std::int64_t d = 0; d < dim; ++d) z += x[i / dim * dim + d] * (*w)[d];
    return v + (1.0 / (1.0 + std::exp(-z)) - 1.0) * alone.at("outputs/y")[i];
  });
  return out;
}

NamedTensors down_bias_unweighted_in_layer(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* b = find(call.tensors, "params/experts.down_proj_bias");
  if (!is(call, C::moe) || !b || parse_moe_config(call.config).moe_latent_size) return out;
  const Tensor &ids = out.at("outputs/indices"), &w = out.at("outputs/weights");
  const std::int64_t dim = size(call, "dim"), k = ids.extent(1);
  change(out, "outputs/y", [&](std::int64_t i, double v) {
    if (!is_live(call, i / dim)) return v;
    for (std::int64_t s = i / dim * k; s < (i / dim + 1) * k; ++s)
      v += (1.0 - w[s]) * (*b)[static_cast<std::int64_t>(ids[s]) * dim + i % dim];
    return v;
  });
  return out;
}

NamedTensors replay_not_taken(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe})) return sound.run(call);
  Call own = call;
  own.tensors.erase("inputs/replay_indices");
  return sound.run(own);
}

NamedTensors mask_turned_round(Implementation& sound, const Call& call) {
  const bool masked =
      call.tensors.contains("inputs/padding_mask") || call.tensors.contains("inputs/token_mask");
  if (!is_one_of(call, {C::gate, C::aux_loss, C::experts, C::moe}) || !masked) return sound.run(call);
  return sound.run(with_live(call, [&](std::int64_t t) { return !is_live(call, t); }));
}

NamedTensors latent_output_bias_lost(Implementation& sound, const Call& call) {
  if (!is(call, C::moe)) return sound.run(call);
  Call bare = call;
  fill(bare, "params/fc2_latent_proj.bias", 0.0);
  return sound.run(bare);
}

NamedTensors latent_bias_on_every_slot(Implementation& sound, const Call& call) {
  if (!is(call, C::moe)) return sound.run(call);
  Call other = call;
  map_input(other, "params/fc2_latent_proj.bias", [&](std::int64_t, double b) {
    return b * static_cast<double>(size(call, "n_activated_experts"));
  });
  return with_results_of(sound, call, other, "outputs/y");
}

NamedTensors frozen_gate_lets_nothing_through(Implementation& sound, const Call& call) {
  if (!is(call, C::moe) || !call.backward || call.config.value("train_gate", true)) return sound.run(call);
  // As if the weights were constants: experts without the gate's share of x's gradient.
  Call detached = call;
  fill(detached, "params/gate.weight", 0.0);
  NamedTensors out = sound.run(call);
  detached.tensors["inputs/replay_indices"] = out.at("outputs/indices");
  for (auto& [name, tensor] : sound.run(detached))
    if (name == "grads/x") out[name] = tensor;
  return out;
}

NamedTensors residual_added(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::moe))
    change(out, "outputs/y", [&](std::int64_t i, double v) { return v + call.tensors.at("inputs/x")[i]; });
  return out;
}

const Mutant kLayerCatalogueMutants[] = {
    {"shared_without_limit",
     "A32",
     "NeMo AutoModel #2173",
     {C::moe},
     "the shared experts do not clamp",
     "F",
     "outputs/y",
     "shared_adds",
     shared_without_limit},
    {"shared_reads_overwritten_x",
     "O15",
     "vLLM #28939",
     {C::moe},
     "the routed experts write their output over x before the shared experts read it",
     "F",
     "outputs/y",
     "shared_adds",
     shared_reads_overwritten_x},
    {"shared_scaled_as_routed",
     "O8",
     "SGLang #28237",
     {C::moe},
     "the scale of the routing weights is applied to the shared experts, too",
     "F",
     "outputs/y",
     "shared_adds",
     shared_scaled_as_routed},
    {"one_shared_expert_alone",
     "",
     "",
     {C::moe},
     "of several shared experts the first alone is added",
     "F",
     "outputs/y",
     "",
     one_shared_expert_alone},
    {"shared_gate_twice",
     "",
     "",
     {C::moe},
     "the shared experts' gate is applied twice",
     "F",
     "outputs/y",
     "shared_adds",
     shared_gate_twice},
    {"down_bias_unweighted_in_layer",
     "M24",
     "Megatron-LM #5850",
     {C::moe},
     "the fused experts add the down bias without the routing weight",
     "F",
     "outputs/y",
     "",
     down_bias_unweighted_in_layer},
    {"replay_not_taken",
     "",
     "",
     {C::gate, C::moe},
     "the experts to replay are ignored",
     "F",
     "outputs/indices outputs/weights",
     "replay_other_experts",
     replay_not_taken},
    {"mask_turned_round",
     "",
     "",
     {C::gate, C::aux_loss, C::experts, C::moe},
     "padding is taken for tokens and tokens for padding",
     "F",
     "outputs/expert_load outputs/y grads/weights",
     "load_counts",
     mask_turned_round},
    {"latent_output_bias_lost",
     "",
     "",
     {C::moe},
     "the second latent projection loses its bias",
     "F",
     "outputs/y",
     "latent_projections",
     latent_output_bias_lost},
    {"latent_bias_on_every_slot",
     "",
     "",
     {C::moe},
     "the second latent projection adds its bias once per slot",
     "F",
     "outputs/y",
     "latent_projections",
     latent_bias_on_every_slot},
    {"frozen_gate_lets_nothing_through",
     "",
     "",
     {C::moe},
     "a gate that is not trained gives x no gradient either",
     "G",
     "grads/x",
     "",
     frozen_gate_lets_nothing_through},
    {"residual_added",
     "",
     "",
     {C::moe},
     "the layer adds x to its output",
     "F",
     "outputs/y",
     "within_bounds",
     residual_added},
};

}  // namespace

std::span<const Mutant> layer_catalogue_mutants() { return kLayerCatalogueMutants; }

}  // namespace moeref
