#include "tools/port_abi/call_tensors.hpp"

#include <algorithm>

#include "moeref/config.hpp"

namespace moeref {

std::vector<TensorSpec> stages(const Call& call) {
  std::vector<TensorSpec> out;
  const auto add = [&](const char* name, DType dtype, Shape shape) {
    out.push_back({std::string("stages/") + name, dtype, std::move(shape), false});
  };
  if (call.component != Component::gate && call.component != Component::moe &&
      call.component != Component::experts)
    return out;
  const MoEConfig c = parse_moe_config(call.config);
  const CallOptions o = parse_call_options(call.options);
  const Tensor& x = require(call.tensors, "inputs/x");
  const std::int64_t tokens = element_count({x.shape().begin(), x.shape().end() - 1});
  const bool wide = c.dtype == DType::float64 || x.dtype() == DType::float64;
  const DType dtype = wide ? DType::float64 : DType::float32;
  const DType gate_dtype = o.gate_precision == DType::float64 ? DType::float64 : dtype;
  if (call.component != Component::experts && !o.fake_balanced_gate) {
    add("logits", gate_dtype, {tokens, c.n_routed_experts});
    add("scores", gate_dtype, {tokens, c.n_routed_experts});
  }
  // Ranks see parts of the rows: there is no one tensor to expose.
  if (call.component != Component::gate && o.parallel.ep_size == 1) {
    const std::int64_t k = c.n_activated_experts;
    add("up_projection", dtype, {tokens, k, c.up_dim()});
    add("activation", dtype, {tokens, k, c.moe_inter_dim});
    add("down_projection", dtype, {tokens, k, c.expert_dim()});
  }
  return out;
}

std::vector<TensorSpec> port_outputs(const Call& call, const std::vector<std::string>& exposed) {
  std::vector<TensorSpec> out = signature(call).outputs;
  for (TensorSpec& stage : stages(call))
    if (std::ranges::find(exposed, stage.name.substr(std::string_view("stages/").size())) != exposed.end())
      out.push_back(std::move(stage));
  return out;
}

}  // namespace moeref
