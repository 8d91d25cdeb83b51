#include "tools/bench/cuda/parameters.hpp"

#include <cmath>

#include "cuda_impl/adaptors/layer_config.hpp"

namespace moeref::cuda::bench {
namespace {

constexpr double kDeviation = 0.02;

}  // namespace

GateTensors gate_tensors(const MoEConfig& c, Buffers& memory) {
  GateTensors out;
  out.weight = memory.parameter({c.n_routed_experts, c.dim}, 1.0 / std::sqrt(static_cast<double>(c.dim)));
  if (c.router_bias) out.bias = memory.parameter({c.n_routed_experts}, kDeviation);
  out.values = {out.weight.value, out.bias.value};
  if (c.has_correction_bias()) out.values.correction = memory.zeros_of<float>({c.n_routed_experts});
  if (!c.train_gate) out.weight.gradient = out.bias.gradient = nullptr;
  return out;
}

ExpertsTensors experts_tensors(const MoEConfig& c, Buffers& memory) {
  const std::int64_t experts = c.n_routed_experts, dim = c.expert_dim();
  const Parameter up = memory.parameter({experts, dim, c.up_dim()}, kDeviation),
                  down = memory.parameter({experts, c.moe_inter_dim, dim}, kDeviation);
  Parameter up_bias, down_bias;
  if (c.expert_bias) {
    up_bias = memory.parameter({experts, c.up_dim()}, kDeviation);
    down_bias = memory.parameter({experts, dim}, kDeviation);
  }
  ExpertsTensors out;
  out.values = {up.value, down.value, up_bias.value, down_bias.value};
  out.gradients.gate_and_up = up.gradient, out.gradients.down = down.gradient;
  out.gradients.gate_and_up_bias = up_bias.gradient, out.gradients.down_bias = down_bias.gradient;
  return out;
}

MLPTensors mlp_tensors(const moeref::MLPConfig& c, Buffers& memory) {
  MLPTensors out;
  const auto parameter = [&](const void*& value, void*& gradient, Extents extents) {
    const Parameter made = memory.parameter(extents, kDeviation);
    value = made.value, gradient = made.gradient;
  };
  MLPWeights& w = out.values;
  MLPGradients& d = out.gradients;
  const bool gated = is_gated(activation_of(c.activation));
  if (gated) parameter(w.gate, d.gate, {c.inter_dim, c.dim});
  parameter(w.up, d.up, {c.inter_dim, c.dim});
  parameter(w.down, d.down, {c.dim, c.inter_dim});
  if (c.bias) {
    if (gated) parameter(w.gate_bias, d.gate_bias, {c.inter_dim});
    parameter(w.up_bias, d.up_bias, {c.inter_dim});
    parameter(w.down_bias, d.down_bias, {c.dim});
  }
  return out;
}

}  // namespace moeref::cuda::bench
