// The parameters of the routed experts, of their own or in the layer, and their gradients.
#pragma once

#include <string>

#include "cuda_impl/adaptors/call_tensors.hpp"
#include "moeref/config.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda {

struct ExpertsTensors {
  DeviceTensor gate_and_up, down, gate_and_up_bias, down_bias;  // biases absent where the config has none

  /// "params/{prefix}gate_and_up_projs" and so on.
  ExpertsTensors(CallTensors& tensors, const std::string& prefix, const MoEConfig& config, DataType type) {
    const auto read = [&](const char* name) { return tensors.upload("params/" + prefix + name, type); };
    gate_and_up = read("gate_and_up_projs");
    down = read("down_projs");
    if (!config.expert_bias) return;
    gate_and_up_bias = read("gate_up_proj_bias");
    down_bias = read("down_proj_bias");
  }

  ExpertsWeights weights() const {
    return {gate_and_up.data, down.data, gate_and_up_bias.data, down_bias.data};
  }
  /// All but x and weights, as results of the call.
  ExpertsGradients gradients(CallTensors& tensors, const std::string& prefix) const {
    ExpertsGradients out{};
    out.gate_and_up = tensors.gradient(prefix + "gate_and_up_projs", gate_and_up).data;
    out.down = tensors.gradient(prefix + "down_projs", down).data;
    out.gate_and_up_bias = tensors.gradient(prefix + "gate_up_proj_bias", gate_and_up_bias).data;
    out.down_bias = tensors.gradient(prefix + "down_proj_bias", down_bias).data;
    return out;
  }
};

}  // namespace moeref::cuda
