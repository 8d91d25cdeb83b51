// The parameters of the routed experts, of their own or in the layer, and their gradients.
#pragma once

#include <string>

#include "cuda_impl/adaptors/call_tensors.hpp"
#include "moeref/config.hpp"
#include "moeref/cuda/experts.hpp"

namespace moeref::cuda {

struct ExpertsTensors {
  /// One matrix: numbers, or codes with their scales.
  struct Matrix {
    DeviceTensor stored, scales, expert_scales;  // scales absent where the format has none

    Matrix(CallTensors& tensors, const std::string& name, moeref::WeightFormat format, DataType type) {
      if (format == moeref::WeightFormat::none) {
        stored = tensors.upload(name, type);
        return;
      }
      stored = tensors.upload(name + "_codes");
      scales = tensors.upload(name + "_scales");
      if (moeref::facts(format).expert_scale)
        expert_scales = tensors.upload(name + "_expert_scales", DataType::float32);
    }
    WeightScales all_scales() const { return {scales.data, expert_scales.as<float>()}; }
  };
  Matrix gate_and_up, down;
  DeviceTensor gate_and_up_bias, down_bias;  // absent where the config has none

  /// "params/{prefix}gate_and_up_projs" and so on.
  ExpertsTensors(CallTensors& tensors, const std::string& prefix, const MoEConfig& config, DataType type)
      : gate_and_up(tensors, "params/" + prefix + "gate_and_up_projs", config.weight_format, type),
        down(tensors, "params/" + prefix + "down_projs", config.weight_format, type) {
    if (!config.expert_bias) return;
    const auto read = [&](const char* name) { return tensors.upload("params/" + prefix + name, type); };
    gate_and_up_bias = read("gate_up_proj_bias");
    down_bias = read("down_proj_bias");
  }

  ExpertsWeights weights() const {
    return {gate_and_up.stored.data, down.stored.data,         gate_and_up_bias.data,
            down_bias.data,          gate_and_up.all_scales(), down.all_scales()};
  }
  /// All but x and weights, as results of the call. Codes have none.
  ExpertsGradients gradients(CallTensors& tensors, const std::string& prefix) const {
    ExpertsGradients out{};
    const auto of_numbers = [&](const char* name, const Matrix& matrix) {
      return matrix.scales ? nullptr : tensors.gradient(prefix + name, matrix.stored).data;
    };
    out.gate_and_up = of_numbers("gate_and_up_projs", gate_and_up);
    out.down = of_numbers("down_projs", down);
    out.gate_and_up_bias = tensors.gradient(prefix + "gate_up_proj_bias", gate_and_up_bias).data;
    out.down_bias = tensors.gradient(prefix + "down_proj_bias", down_bias).data;
    return out;
  }
};

}  // namespace moeref::cuda
