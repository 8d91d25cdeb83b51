#include "moeref/cuda/bias_update.hpp"

#include "implementation/adaptors.hpp"
#include "implementation/gate_tensors.hpp"
#include "implementation/layer_config.hpp"
#include "moeref/error.hpp"

namespace moeref::cuda {
namespace {

/// One data-parallel rank: its own cumulative load, its own copy of the bias.
struct Rank {
  DeviceTensor master, correction;
  BiasUpdate update;

  Rank(const BiasUpdateConfig& config, const Tensor& bias, std::int64_t* cumulative_load,
       DeviceContext& device)
      : master(device.output(Element::float32, {config.experts})),
        correction(device.upload(bias, Element::float32)),
        update(config, {cumulative_load, master.as<float>(), correction.as<float>()}, device.stream()) {}
};

Tensor sum_of_rows(const Tensor& loads) {
  Tensor out(DType::int64, {loads.extent(1)});
  for (std::int64_t i = 0; i < loads.size(); ++i)
    out.as<std::int64_t>()[i % loads.extent(1)] += loads.as<std::int64_t>()[i];
  return out;
}

}  // namespace

std::optional<std::string> unsupported_bias_update(const Call& call) {
  const CallOptions o = parse_call_options(call.options);
  for (std::int64_t s = 0; s < o.steps; ++s)
    for (std::int64_t m = 0; m < o.micro_batches; ++m)
      if (auto reason = unsupported_dtype(call, "inputs/x_" + std::to_string(s) + "_" + std::to_string(m)))
        return reason;
  return unsupported_gate_config(call);
}

/// Every rank routes its part of each micro-batch's tokens; the loads of all ranks stand in one array, as
/// after an all-gather, and every rank updates from it.
NamedTensors run_bias_update(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const CallOptions options = parse_call_options(call.options);
  if (!options.training)
    throw InputError("call option 'training' is false: the bias update is part of training");
  const std::int64_t experts = documented.n_routed_experts, k = documented.n_activated_experts;
  const std::int64_t ranks = options.parallel.dp_size;

  CallTensors tensors(call, device);
  const GateTensors gate(call, tensors, documented);
  const DeviceTensor gathered = device.zeros(Element::int64, {ranks, experts});
  std::vector<Rank> all;
  for (std::int64_t r = 0; r < ranks; ++r)
    all.emplace_back(BiasUpdateConfig{static_cast<int>(experts), documented.train_gate,
                                      documented.gate_bias_update_factor},
                     require(call.tensors, "params/e_score_correction_bias"),
                     gathered.as<std::int64_t>() + r * experts, device);
  NamedTensors states;
  for (std::int64_t s = 0; s < options.steps; ++s) {
    for (std::int64_t m = 0; m < options.micro_batches; ++m) {
      const std::string at = "_" + std::to_string(s) + "_" + std::to_string(m);
      const Tensor& input = require(call.tensors, "inputs/x" + at);
      const DataType type = data_type(input.dtype());
      const DeviceTensor x = tensors.upload("inputs/x" + at, element_of(type)),
                         mask = tensors.upload_if_there("inputs/token_mask" + at, Element::uint8),
                         replay = tensors.upload_if_there("inputs/replay_indices" + at, Element::int32),
                         ids = tensors.result("outputs/indices" + at, Element::int32, {input.extent(0), k});
      const auto parts = parts_of(input.extent(0), ranks, options.parallel.tokens_per_rank);
      for (std::int64_t r = 0; r < ranks; ++r) {
        const std::int64_t first = parts[r];
        const GateConfig c = gate_config(documented, options, parts[r + 1] - first, type, gate.type);
        GateParameters parameters = gate.parameters();
        parameters.correction = all[r].correction.as<float>();
        const GateInput in{
            static_cast<const char*>(x.data) + first * c.dim * static_cast<std::int64_t>(bytes_of(type)),
            mask ? mask.as<std::uint8_t>() + first : nullptr,
            replay ? replay.as<int>() + first * k : nullptr};
        GateOutput out{ids.as<int>() + first * k};
        out.load = device.output(Element::int64, {experts}).as<std::int64_t>();
        gate_forward(c, parameters, in, out, nullptr, device.workspace(gate_forward_workspace_bytes(c)),
                     device.stream());
        all[r].update.accumulate(out.load, device.stream());
      }
    }
    const std::string at = "_" + std::to_string(s);
    states["outputs/cumulative_expert_load" + at] = sum_of_rows(device.download(gathered));
    // A copy: the first rank's update clears its own row.
    const DeviceTensor loads = device.upload(device.download(gathered), Element::int64);
    for (Rank& rank : all)
      rank.update.update(device.stream(), loads.as<std::int64_t>(), static_cast<int>(ranks));
    states["outputs/e_score_correction_bias" + at] = device.download(all[0].correction);
  }
  NamedTensors out = tensors.download();
  out.merge(states);
  return out;
}

}  // namespace moeref::cuda
