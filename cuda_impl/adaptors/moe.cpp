#include "moeref/cuda/moe.hpp"

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_ranks.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"
#include "cuda_impl/adaptors/experts_tensors.hpp"
#include "cuda_impl/adaptors/gate_tensors.hpp"
#include "cuda_impl/adaptors/layer_config.hpp"
#include "cuda_impl/adaptors/mlp_tensors.hpp"
#include "cuda_impl/moe/layout.hpp"

namespace moeref::cuda {
namespace {

/// The layer's parameters under their documented names; absent where the config has none.
struct LayerTensors {
  GateTensors gate;
  ExpertsTensors experts;
  MLPTensors shared;
  DeviceTensor shared_gate, fc1_weight, fc1_bias, fc2_weight, fc2_bias, latent_norm;

  LayerTensors(const Call& call, CallTensors& tensors, const MoEConfig& c, const CallOptions& o,
               DataType type)
      : experts(tensors, "experts.", c, experts_type(c, type)) {
    const auto read = [&](const char* name, DataType as) {
      return tensors.upload(std::string("params/") + name, as);
    };
    if (!o.fake_balanced_gate) gate = GateTensors(call, tensors, c, "gate.");
    if (c.n_shared_experts > 0) {
      shared = MLPTensors(tensors, "shared_experts.", shared_experts_config(c), type);
      if (c.shared_expert_gate) shared_gate = read("shared_expert_gate.weight", type);
    }
    if (c.moe_latent_size) {
      fc1_weight = read("fc1_latent_proj.weight", type);
      fc2_weight = read("fc2_latent_proj.weight", type);
      if (c.expert_bias) fc1_bias = read("fc1_latent_proj.bias", type);
      if (c.expert_bias) fc2_bias = read("fc2_latent_proj.bias", type);
      if (c.latent_norm != moeref::LatentNorm::none) latent_norm = read("latent_norm.weight", type);
    }
  }

  LayerWeights weights() const {
    LayerWeights w;
    w.gate = gate.parameters();
    w.experts = experts.weights();
    w.shared = shared.weights();
    w.shared_gate = shared_gate.data;
    w.fc1_weight = fc1_weight.data, w.fc1_bias = fc1_bias.data;
    w.fc2_weight = fc2_weight.data, w.fc2_bias = fc2_bias.data;
    w.latent_norm = latent_norm.data;
    return w;
  }

  LayerGradients gradients(CallTensors& tensors, bool train_gate) const {
    LayerGradients d{};
    if (train_gate) {
      const GateGradients of_gate = gate.gradients(tensors);
      d.gate_weight = of_gate.weight, d.gate_bias = of_gate.bias;
      d.gate_input_scale = of_gate.input_scale, d.gate_expert_scale = of_gate.expert_scale;
    }
    d.experts = experts.gradients(tensors, "experts.");
    d.shared = shared.gradients(tensors, "shared_experts.");
    d.shared_gate = tensors.gradient("shared_expert_gate.weight", shared_gate).data;
    d.fc1_weight = tensors.gradient("fc1_latent_proj.weight", fc1_weight).data;
    d.fc1_bias = tensors.gradient("fc1_latent_proj.bias", fc1_bias).data;
    d.fc2_weight = tensors.gradient("fc2_latent_proj.weight", fc2_weight).data;
    d.fc2_bias = tensors.gradient("fc2_latent_proj.bias", fc2_bias).data;
    d.latent_norm = tensors.gradient("latent_norm.weight", latent_norm).data;
    return d;
  }
};

}  // namespace

std::optional<std::string> unsupported_moe(const Call& call) {
  const CallOptions o = parse_call_options(call.options);
  for (const char* tensor : {"inputs/x", "params/gate.weight", "params/gate.bias"})
    if (auto reason = unsupported_dtype(call, tensor)) return reason;
  if (auto reason = unsupported_gate_config(call)) return reason;
  if (auto reason = unsupported_experts_type(call)) return reason;
  if (o.fake_balanced_gate && o.fake_gate_noise > 0.0)
    return "fake_gate_noise is " + std::to_string(o.fake_gate_noise) +
           ": the CUDA implementation draws from its own counter-based generator";
  if (o.fake_balanced_gate && ranks_of(call) > 1)
    return "fake_balanced_gate on several ranks: the CUDA layer numbers each rank's tokens from 0";
  return std::nullopt;
}

NamedTensors run_moe(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const CallOptions options = parse_call_options(call.options);
  const Tensor& input = require(call.tensors, "inputs/x");
  const DataType type = data_type(input.dtype()), gate = gate_type(call, "params/gate.", type);
  LayerConfig c = layer_config(documented, options, input.size() / documented.dim, type, gate,
                               device.options().experts_path);
  const ExpertsSpread spread(c.experts, options, device.ranks());
  c.expert_ranks = spread.ranks, c.max_tokens = spread.max_tokens, c.exchange = spread.exchange;
  c.expert_chunks = spread.chunks;
  const LayerGroups groups{spread.group, spread.windows(),
                           device.ranks() ? device.ranks()->group.get() : nullptr};
  const Shape slots{c.gate.tokens, c.gate.slots};

  CallTensors tensors(call, device);
  const DeviceTensor x = tensors.upload("inputs/x", type),
                     padding = tensors.upload_if_there("inputs/padding_mask", DataType::uint8),
                     replay = tensors.upload_if_there("inputs/replay_indices", DataType::int32);
  const LayerTensors parameters(call, tensors, documented, options, type);
  LayerInput in{x.data, padding.as<std::uint8_t>(), replay.as<int>()};
  if (c.gate.router_jitter && !options.fake_balanced_gate)
    in.router_noise = tensors.upload("inputs/router_noise", type).data;
  if (c.gate.loss_rule().adds_earlier_loads() && !options.fake_balanced_gate)
    in.accumulated_load =
        tensors.upload("inputs/accumulated_expert_load", DataType::int64).as<std::int64_t>();
  LayerOutput out{tensors.result("outputs/y", type, input.shape()).data};
  out.ids = tensors.result("outputs/indices", DataType::int32, slots).as<int>();
  out.weights =
      tensors.result("outputs/weights", options.fake_balanced_gate ? type : c.gate.weights_type(), slots)
          .data;
  if (!options.fake_balanced_gate)
    out.load = tensors.result("outputs/expert_load", DataType::int64, {c.gate.experts}).as<std::int64_t>();
  if (c.drops_slots())
    out.dispatched_ids = tensors.result("outputs/dispatched_indices", DataType::int32, slots).as<int>();
  if (!options.fake_balanced_gate) loss_results(c.gate, tensors, out);

  void* saved = device.workspace(layer_saved_bytes(c));
  Blas blas;
  layer_forward(c, parameters.weights(), in, out, saved, device.workspace(layer_forward_workspace_bytes(c)),
                blas, device.stream(), groups);
  if (call.backward) {
    const DeviceTensor dy = tensors.upload("cotangents/y", type);
    LayerGradients gradients = parameters.gradients(tensors, documented.train_gate);
    gradients.x = tensors.result("grads/x", type, input.shape()).data;
    layer_backward(c, parameters.weights(), in, dy.data, saved, gradients,
                   device.workspace(layer_backward_workspace_bytes(c)), blas, device.stream(), groups);
  }
  NamedTensors results = tensors.download();
  if (!options.fake_balanced_gate) {
    // The gate's part of `saved` begins with the logits.
    Arena kept(saved);
    results["stages/logits"] =
        device.download({LayerSaved(kept, c).gate, c.gate.compute_type(), {c.gate.tokens, c.gate.experts}});
  }
  return results;
}

}  // namespace moeref::cuda
