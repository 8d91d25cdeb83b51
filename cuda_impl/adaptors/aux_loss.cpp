#include "moeref/cuda/aux_loss.hpp"

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"

namespace moeref::cuda {

std::optional<std::string> unsupported_aux_loss(const Call& call) {
  const MoEConfig c = parse_moe_config(call.config);
  if (c.n_routed_experts > 1024)
    return "n_routed_experts is " + std::to_string(c.n_routed_experts) + ": the CUDA loss takes 1024 at most";
  if (c.n_activated_experts > 64)
    return "n_activated_experts is " + std::to_string(c.n_activated_experts) +
           ": the CUDA loss takes 64 at most";
  return unsupported_dtype(call, "inputs/original_scores");
}

NamedTensors run_aux_loss(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const Tensor& input = require(call.tensors, "inputs/original_scores");
  const DataType type = data_type(input.dtype());
  const AuxLossConfig c{input.extent(0),
                        static_cast<int>(documented.n_routed_experts),
                        static_cast<int>(documented.n_activated_experts),
                        type,
                        documented.aux_loss_factor == AuxLossFactor::experts_over_k,
                        documented.aux_loss_counts == AuxLossCounts::first_choice,
                        static_cast<int>(documented.aux_loss_sequences),
                        documented.aux_loss_accumulated};
  CallTensors tensors(call, device);
  const DeviceTensor scores = tensors.upload("inputs/original_scores", type),
                     ids = tensors.upload("inputs/indices", DataType::int32),
                     mask = tensors.upload_if_there("inputs/token_mask", DataType::uint8);
  const DeviceTensor load = tensors.result("outputs/expert_load", DataType::int64, {c.experts}),
                     loss = tensors.result("outputs/aux_loss", DataType::float32, {}),
                     gradient = device.output(DataType::float64, {c.sequences, c.experts});
  AuxLossInput in{scores.data, ids.as<int>(), mask.as<std::uint8_t>()};
  if (c.accumulated)
    in.accumulated_load =
        tensors.upload("inputs/accumulated_expert_load", DataType::int64).as<std::int64_t>();
  aux_loss_forward(c, in, {nullptr, load.as<std::int64_t>(), nullptr}, loss.as<float>(),
                   gradient.as<double>(), device.workspace(aux_loss_workspace_bytes(c)), device.stream());
  if (call.backward)
    aux_loss_backward(c, gradient.as<double>(), mask.as<std::uint8_t>(),
                      tensors.result("grads/original_scores", type, input.shape()).data, device.stream());
  return tensors.download();
}

}  // namespace moeref::cuda
