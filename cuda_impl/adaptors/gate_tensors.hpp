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

/// "weight", "bias" and "e_score_correction_bias".
struct GateTensors {
  DataType type;
  DeviceTensor weight, bias, correction;

  GateTensors(const Call& call, CallTensors& tensors, const MoEConfig& c)
      : type(gate_type(call, "params/", DataType::float32)) {
    weight = tensors.upload("params/weight", type);
    if (c.router_bias) bias = tensors.upload("params/bias", type);
    if (c.has_correction_bias())
      correction = tensors.upload("params/e_score_correction_bias", DataType::float32);
  }

  GateParameters parameters() const { return {weight.data, bias.data, correction.as<float>()}; }
};

/// Sizes and types, for gate and bias_update.
std::optional<std::string> unsupported_gate_config(const Call& call);

}  // namespace moeref::cuda
