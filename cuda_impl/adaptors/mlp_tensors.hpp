// The parameters of an MLP, of its own or as the shared experts, and their gradients.
#pragma once

#include <string>

#include "cuda_impl/adaptors/call_tensors.hpp"
#include "cuda_impl/adaptors/layer_config.hpp"
#include "moeref/config.hpp"
#include "moeref/cuda/mlp.hpp"

namespace moeref::cuda {

struct MLPTensors {
  DeviceTensor gate, up, down, gate_bias, up_bias, down_bias;  // absent where the config has none

  MLPTensors() = default;
  /// "params/{prefix}gate_proj.weight" and so on.
  MLPTensors(CallTensors& tensors, const std::string& prefix, const moeref::MLPConfig& config,
             DataType type) {
    const auto read = [&](const char* name) { return tensors.upload("params/" + prefix + name, type); };
    const bool gated = is_gated(activation_of(config.activation));
    if (gated) gate = read("gate_proj.weight");
    up = read("up_proj.weight");
    down = read("down_proj.weight");
    if (!config.bias) return;
    if (gated) gate_bias = read("gate_proj.bias");
    up_bias = read("up_proj.bias");
    down_bias = read("down_proj.bias");
  }

  MLPWeights weights() const {
    return {gate.data, up.data, down.data, gate_bias.data, up_bias.data, down_bias.data};
  }
  /// All but x and row_scale, as results of the call.
  MLPGradients gradients(CallTensors& tensors, const std::string& prefix) const {
    MLPGradients out{};
    out.gate = tensors.gradient(prefix + "gate_proj.weight", gate).data;
    out.up = tensors.gradient(prefix + "up_proj.weight", up).data;
    out.down = tensors.gradient(prefix + "down_proj.weight", down).data;
    out.gate_bias = tensors.gradient(prefix + "gate_proj.bias", gate_bias).data;
    out.up_bias = tensors.gradient(prefix + "up_proj.bias", up_bias).data;
    out.down_bias = tensors.gradient(prefix + "down_proj.bias", down_bias).data;
    return out;
  }
};

}  // namespace moeref::cuda
