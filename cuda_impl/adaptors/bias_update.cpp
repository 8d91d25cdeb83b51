#include "moeref/cuda/bias_update.hpp"

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_ranks.hpp"
#include "cuda_impl/adaptors/gate_tensors.hpp"
#include "cuda_impl/adaptors/layer_config.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/score_quantiles.hpp"
#include "moeref/error.hpp"

namespace moeref::cuda {

std::optional<std::string> unsupported_bias_update(const Call& call) {
  const CallOptions o = parse_call_options(call.options);
  for (std::int64_t s = 0; s < o.steps; ++s)
    for (std::int64_t m = 0; m < o.micro_batches; ++m)
      if (auto reason = unsupported_dtype(call, "inputs/x_" + std::to_string(s) + "_" + std::to_string(m)))
        return reason;
  return unsupported_gate_config(call);
}

/// Under data parallelism the cumulative loads are summed over the ranks before every update.
NamedTensors run_bias_update(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const CallOptions options = parse_call_options(call.options);
  if (!options.training)
    throw InputError("call option 'training' is false: the bias update is part of training");
  const int experts = static_cast<int>(documented.n_routed_experts);
  const std::int64_t k = documented.n_activated_experts;

  CallTensors tensors(call, device);
  const GateTensors gate(call, tensors, documented);
  const DeviceTensor cumulative = device.output(DataType::int64, {experts}),
                     master = device.output(DataType::float32, {experts}),
                     correction = device.upload(require(call.tensors, "params/e_score_correction_bias"),
                                                DataType::float32);
  GateParameters parameters = gate.parameters();
  parameters.correction = correction.as<float>();
  BiasUpdate update(
      {experts, documented.train_gate, documented.gate_bias_update_factor, documented.centred_bias_update},
      {cumulative.as<std::int64_t>(), master.as<float>(), correction.as<float>()}, device.stream());
  const bool by_quantiles = documented.bias_update_rule == BiasUpdateRule::quantile;
  const DeviceTensor sums = device.upload(Tensor(DType::float64, {experts}), DataType::float64),
                     count = device.upload(Tensor(DType::int64, {1}), DataType::int64);
  const QuantileSums quantiles{sums.as<double>(), count.as<std::int64_t>()};
  NamedTensors states;
  for (std::int64_t s = 0; s < options.steps; ++s) {
    for (std::int64_t m = 0; m < options.micro_batches; ++m) {
      const std::string at = "_" + std::to_string(s) + "_" + std::to_string(m);
      const Tensor& input = require(call.tensors, "inputs/x" + at);
      const DataType type = data_type(input.dtype());
      const DeviceTensor x = tensors.upload("inputs/x" + at, type),
                         mask = tensors.upload_if_there("inputs/token_mask" + at, DataType::uint8),
                         replay = tensors.upload_if_there("inputs/replay_indices" + at, DataType::int32),
                         ids = tensors.result("outputs/indices" + at, DataType::int32, {input.extent(0), k});
      GateConfig c = gate_config(documented, options, input.extent(0), type, gate.type);
      c.capacity = {};  // of the gate's results, ids and load alone are looked at, which drop no slot
      // Its calls have neither noise nor weights nor losses.
      c.router_jitter = c.per_expert_scale = false;
      c.aux_loss_coeff = c.batch_loss_coeff = c.global_loss_coeff = c.z_loss_coeff = 0.0;
      GateOutput out{ids.as<int>()};
      out.load = device.output(DataType::int64, {experts}).as<std::int64_t>();
      void* saved = by_quantiles ? device.workspace(gate_saved_bytes(c)) : nullptr;
      gate_forward(c, parameters, {x.data, mask.as<std::uint8_t>(), replay.as<int>()}, out, saved,
                   device.workspace(gate_forward_workspace_bytes(c)), device.stream());
      if (by_quantiles)
        accumulate_score_quantiles(c, parameters.correction, saved, mask.as<std::uint8_t>(), quantiles,
                                   device.workspace(score_quantiles_workspace_bytes(c)), device.stream());
      update.accumulate(out.load, device.stream());
    }
    const std::string at = "_" + std::to_string(s);
    if (device.ranks())
      device.ranks()->group->sum(cumulative.as<std::int64_t>(), experts, nullptr, 0, device.stream());
    states["outputs/cumulative_expert_load" + at] = device.download(cumulative);
    if (by_quantiles) {
      if (device.ranks())
        device.ranks()->group->sum(quantiles.count, 1, quantiles.sums, experts, device.stream());
      update_bias_by_quantiles(experts, documented.bias_update_ema, quantiles, master.as<float>(),
                               correction.as<float>(), device.stream());
      check(cudaMemsetAsync(cumulative.data, 0, static_cast<std::size_t>(experts) * sizeof(std::int64_t),
                            device.stream()),
            "cudaMemsetAsync");
    } else {
      update.update(device.stream());
    }
    states["outputs/e_score_correction_bias" + at] = device.download(correction);
  }
  NamedTensors out = tensors.download();
  out.merge(states);
  return out;
}

}  // namespace moeref::cuda
