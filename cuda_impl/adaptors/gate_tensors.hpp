// A gate's parameters on the device, and what no gate of this implementation takes.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "cuda_impl/adaptors/call_tensors.hpp"
#include "moeref/config.hpp"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

/// The type that weight and bias of the gate under `prefix` have on the device: as they are stored, float32
/// where the two differ; `otherwise` for a call without a gate.
DataType gate_type(const Call& call, const std::string& prefix, DataType otherwise);

/// "weight", "bias", "e_score_correction_bias", "input_scale" and "per_expert_scale" under `prefix`; absent
/// where the config has none.
struct GateTensors {
  std::string prefix;
  DataType type = DataType::float32;
  DeviceTensor weight, bias, correction, input_scale, expert_scale;

  GateTensors() = default;  // of a layer without a gate
  GateTensors(const Call& call, CallTensors& tensors, const MoEConfig& c, const std::string& prefix = "")
      : prefix(prefix), type(gate_type(call, "params/" + prefix, DataType::float32)) {
    const auto read = [&](const char* name, DataType as) {
      return tensors.upload("params/" + prefix + name, as);
    };
    weight = read("weight", type);
    if (c.router_bias) bias = read("bias", type);
    if (c.has_correction_bias()) correction = read("e_score_correction_bias", DataType::float32);
    if (c.router_input_norm) input_scale = read("input_scale", type);
    if (c.per_expert_scale)  // which a bias update has not
      expert_scale = tensors.upload_if_there("params/" + prefix + "per_expert_scale", type);
  }

  GateParameters parameters() const {
    return {weight.data, bias.data, correction.as<float>(), input_scale.data, expert_scale.data};
  }
  /// Those of the parameters, that of x left out.
  GateGradients gradients(CallTensors& tensors) const {
    const auto result = [&](const char* name, const DeviceTensor& parameter) {
      return tensors.gradient(prefix + name, parameter).data;
    };
    GateGradients d;
    d.weight = result("weight", weight);
    d.bias = result("bias", bias);
    d.input_scale = result("input_scale", input_scale);
    d.expert_scale = result("per_expert_scale", expert_scale);
    return d;
  }
};

/// Results for the losses that the gate has, in a GateOutput or LayerOutput.
template <class Output>
void loss_results(const GateConfig& c, CallTensors& tensors, Output& out) {
  const auto result = [&](bool has, const char* name) -> float* {
    return has ? tensors.result(name, DataType::float32, {}).template as<float>() : nullptr;
  };
  out.aux_loss = result(c.has_aux_loss(), "outputs/aux_loss");
  out.batch_loss = result(c.has_batch_loss(), "outputs/batch_loss");
  out.global_loss = result(c.has_global_loss(), "outputs/global_loss");
  out.z_loss = result(c.has_z_loss(), "outputs/z_loss");
}

/// Sizes and types, for gate and bias_update.
std::optional<std::string> unsupported_gate_config(const Call& call);

}  // namespace moeref::cuda
