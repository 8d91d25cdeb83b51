#include "moeref/cuda/experts.hpp"

#include <cstring>

#include "cuda_impl/adaptors/adaptors.hpp"
#include "cuda_impl/adaptors/call_ranks.hpp"
#include "cuda_impl/adaptors/call_tensors.hpp"
#include "cuda_impl/adaptors/experts_tensors.hpp"
#include "cuda_impl/adaptors/layer_config.hpp"
#include "cuda_impl/experts/layout.hpp"

namespace moeref::cuda {
namespace {

/// Rows [R, width] in the order of slots, [T, k, width]; zero for slots without a row.
Tensor by_slot(DeviceContext& device, void* rows, const ExpertsConfig& c, std::int64_t width,
               const int* slot_row) {
  const Tensor by_row = device.download({rows, c.dtype, {rows_of(c), width}});
  const Tensor row_of = device.download({const_cast<int*>(slot_row), DataType::int32, {rows_of(c)}});
  Tensor out(by_row.dtype(), {c.tokens, c.slots, width});
  const std::size_t bytes = static_cast<std::size_t>(width) * bytes_of(c.dtype);
  for (std::int64_t slot = 0; slot < rows_of(c); ++slot) {
    const std::int64_t row = row_of.as<std::int64_t>()[static_cast<std::size_t>(slot)];
    if (row >= 0)
      std::memcpy(out.bytes().data() + static_cast<std::size_t>(slot) * bytes,
                  by_row.bytes().data() + static_cast<std::size_t>(row) * bytes, bytes);
  }
  return out;
}

/// The stages that the kernels leave in memory. The rows after the down projection are stored with a weight
/// that comes after it, and none of an expert that returns its input, so that stage is not shown there.
void add_stages(DeviceContext& device, const ExpertsConfig& c, void* saved, void* workspace,
                NamedTensors& out) {
  Arena kept(saved), scratch(workspace);
  const TokenChunks chunks = one_chunk(c);
  const Saved keep(kept, c, chunks);
  const ForwardWorkspace work(scratch, c, chunks);
  const Permutation rows =
      carve_permutation(permutation_shape(c, selected_path(c), chunks), keep.permutation);
  out["stages/up_projection"] = by_slot(device, keep.h, c, c.up_width(), rows.slot_row);
  out["stages/activation"] = by_slot(device, work.a, c, c.inter_dim, rows.slot_row);
  if (!c.apply_router_weight_after_down && c.identity_experts == 0)
    out["stages/down_projection"] = by_slot(device, work.rows, c, c.dim, rows.slot_row);
}

}  // namespace

std::optional<std::string> unsupported_experts(const Call& call) {
  if (auto reason = unsupported_dtype(call, "inputs/x")) return reason;
  if (auto reason = unsupported_experts_type(call)) return reason;
  if (const std::int64_t experts = parse_moe_config(call.config).n_routed_experts; experts > 1024)
    return "n_routed_experts is " + std::to_string(experts) + ": the CUDA experts take 1024 at most";
  return std::nullopt;
}

NamedTensors run_experts(const Call& call, DeviceContext& device) {
  const MoEConfig documented = parse_moe_config(call.config);
  const Tensor& input = require(call.tensors, "inputs/x");
  const DataType type = experts_type(documented, data_type(input.dtype()));
  const ExpertsConfig c = experts_config(documented, input.extent(0), type, device.options().experts_path);

  CallTensors tensors(call, device);
  const DeviceTensor x = tensors.upload("inputs/x", type),
                     ids = tensors.upload("inputs/indices", DataType::int32),
                     weights = tensors.upload("inputs/weights", DataType::float32),
                     mask = tensors.upload_if_there("inputs/token_mask", DataType::uint8);
  const ExpertsTensors parameters(tensors, "", documented, type);
  const ExpertsInput in{x.data, ids.as<int>(), weights.as<float>(), mask.as<std::uint8_t>()};
  const DeviceTensor y = tensors.result("outputs/y", type, input.shape());
  const ExpertsSpread spread(c, parse_call_options(call.options), device.ranks());
  const ExpertParallelConfig p = spread.config(c);
  void* saved = device.workspace(spread ? saved_bytes(p) : saved_bytes(c));
  void* workspace = device.workspace(spread ? forward_workspace_bytes(p) : forward_workspace_bytes(c));
  if (spread)
    experts_forward(p, parameters.weights(), in, y.data, *spread.group, spread.windows(), saved, workspace,
                    device.stream());
  else
    experts_forward(c, parameters.weights(), in, y.data, saved, workspace, device.stream());
  if (call.backward) {
    const DeviceTensor dy = tensors.upload("cotangents/y", type);
    ExpertsGradients gradients = parameters.gradients(tensors, "");
    gradients.x = tensors.result("grads/x", type, input.shape()).data;
    gradients.weights = tensors.result("grads/weights", DataType::float32, ids.shape).as<float>();
    void* backward_workspace =
        device.workspace(spread ? backward_workspace_bytes(p) : backward_workspace_bytes(c));
    if (spread)
      experts_backward(p, parameters.weights(), in, dy.data, *spread.group, spread.windows(), saved,
                       gradients, backward_workspace, device.stream());
    else
      experts_backward(c, parameters.weights(), in, dy.data, saved, gradients, backward_workspace,
                       device.stream());
  }
  NamedTensors out = tensors.download();
  // With ranks a slot's stages lie where its expert is.
  if (c.tokens > 0 && !device.ranks()) add_stages(device, c, saved, workspace, out);
  return out;
}

}  // namespace moeref::cuda
