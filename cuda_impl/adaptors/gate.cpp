#include "moeref/cuda/gate.hpp"

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_ranks.hpp"
#include "cuda_impl/adaptors/gate_tensors.hpp"
#include "cuda_impl/adaptors/layer_config.hpp"
#include "moeref/error.hpp"

namespace moeref::cuda {

DataType gate_type(const Call& call, const std::string& prefix, DataType otherwise) {
  const Tensor *weight = find(call.tensors, prefix + "weight"), *bias = find(call.tensors, prefix + "bias");
  if (!weight) return otherwise;
  return bias && bias->dtype() != weight->dtype() ? DataType::float32 : data_type(weight->dtype());
}

std::optional<std::string> unsupported_gate_config(const Call& call) {
  const MoEConfig c = parse_moe_config(call.config);
  if (c.n_routed_experts > 1024)
    return "n_routed_experts is " + std::to_string(c.n_routed_experts) + ": the CUDA gate takes 1024 at most";
  if (c.n_activated_experts > 64)
    return "n_activated_experts is " + std::to_string(c.n_activated_experts) +
           ": the CUDA gate takes 64 at most";
  if (c.aux_loss_sequences > 1 && c.aux_loss_coeff > 0.0 &&
      parse_call_options(call.options).parallel.size() > 1)
    return "aux_loss_sequences is " + std::to_string(c.aux_loss_sequences) +
           " on several ranks: the CUDA gate adds their statistics to those of one sequence";
  for (const char* tensor : {"params/weight", "params/bias"})
    if (auto reason = unsupported_dtype(call, tensor)) return reason;
  return std::nullopt;
}

std::optional<std::string> unsupported_gate(const Call& call) {
  if (auto reason = unsupported_dtype(call, "inputs/x")) return reason;
  return unsupported_gate_config(call);
}

NamedTensors run_gate(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const CallOptions options = parse_call_options(call.options);
  const Tensor& input = require(call.tensors, "inputs/x");
  const DataType type = data_type(input.dtype());

  CallTensors tensors(call, device);
  const GateTensors gate(call, tensors, documented);
  const GateConfig c = gate_config(documented, options, input.extent(0), type, gate.type);
  const Shape slots{c.tokens, c.slots};
  const DeviceTensor x = tensors.upload("inputs/x", type),
                     mask = tensors.upload_if_there("inputs/token_mask", DataType::uint8),
                     replay = tensors.upload_if_there("inputs/replay_indices", DataType::int32);
  GateInput in{x.data, mask.as<std::uint8_t>(), replay.as<int>()};
  if (c.loss_rule().adds_earlier_loads())
    in.accumulated_load =
        tensors.upload("inputs/accumulated_expert_load", DataType::int64).as<std::int64_t>();
  if (c.router_jitter) in.noise = tensors.upload("inputs/router_noise", type).data;
  GateOutput out{tensors.result("outputs/indices", DataType::int32, slots).as<int>()};
  out.weights = tensors.result("outputs/weights", c.weights_type(), slots).data;
  out.load = tensors.result("outputs/expert_load", DataType::int64, {c.experts}).as<std::int64_t>();
  if (c.capacity.drops_slots())
    out.dispatched_ids = tensors.result("outputs/dispatched_indices", DataType::int32, slots).as<int>();
  loss_results(c, tensors, out);
  const bool summed = device.ranks() && c.has_loss();
  const std::int64_t counts = GateStatistics::count_of_counts(c), sums = GateStatistics::count_of_sums(c);
  if (summed) {
    out.statistics.counts = device.output(DataType::int64, {counts}).as<std::int64_t>();
    out.statistics.sums = device.output(DataType::float64, {sums}).as<double>();
  }
  void* saved = device.workspace(gate_saved_bytes(c));
  gate_forward(c, gate.parameters(), in, out, saved, device.workspace(gate_forward_workspace_bytes(c)),
               device.stream());
  if (summed) {
    device.ranks()->group->sum(out.statistics.counts, counts, out.statistics.sums, sums, device.stream());
    gate_losses(c, in, out.statistics, out.losses(), saved, device.stream());
  }
  if (call.backward) {
    const DeviceTensor dw = tensors.upload("cotangents/weights", DataType::float32);
    GateGradients d = documented.train_gate ? gate.gradients(tensors) : GateGradients{};
    d.x = tensors.result("grads/x", type, input.shape()).data;
    gate_backward(c, gate.parameters(), in, out.ids, dw.data, DataType::float32, saved, d,
                  device.workspace(gate_backward_workspace_bytes(c)), device.stream());
  }
  NamedTensors results = tensors.download();
  // `saved` begins with the logits.
  results["stages/logits"] = device.download({saved, c.compute_type(), {c.tokens, c.experts}});
  return results;
}

}  // namespace moeref::cuda
