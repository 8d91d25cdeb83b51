// One adaptor per component, in a file of its name: named tensors of a call to device arrays, the component's
// kernels, and back. `unsupported_X` says why such a call cannot be served, from the call alone; `run_X`
// gets calls that check_inputs has passed and that are supported, or one rank's share of such a call
// (device.ranks(), call_ranks.hpp).
#pragma once

#include <optional>
#include <string>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref::cuda {

NamedTensors run_gate(const Call& call, DeviceContext& device);
NamedTensors run_aux_loss(const Call& call, DeviceContext& device);
NamedTensors run_bias_update(const Call& call, DeviceContext& device);
NamedTensors run_fake_balanced_gate(const Call& call, DeviceContext& device);
NamedTensors run_mlp(const Call& call, DeviceContext& device);
NamedTensors run_experts(const Call& call, DeviceContext& device);
NamedTensors run_moe(const Call& call, DeviceContext& device);
NamedTensors run_init(const Call& call, DeviceContext& device);
NamedTensors run_metrics(const Call& call, DeviceContext& device);

std::optional<std::string> unsupported_gate(const Call& call);
std::optional<std::string> unsupported_aux_loss(const Call& call);
std::optional<std::string> unsupported_bias_update(const Call& call);
std::optional<std::string> unsupported_fake_balanced_gate(const Call& call);
std::optional<std::string> unsupported_mlp(const Call& call);
std::optional<std::string> unsupported_experts(const Call& call);
std::optional<std::string> unsupported_moe(const Call& call);
std::optional<std::string> unsupported_init(const Call& call);
std::optional<std::string> unsupported_metrics(const Call& call);

/// "inputs/x is float64: the CUDA implementation computes in float32, bfloat16 and float16", or nothing.
/// Nothing, too, where the call lacks the tensor: running it will say so.
std::optional<std::string> unsupported_dtype(const Call& call, std::string_view tensor);
/// Likewise of expert_compute_dtype.
std::optional<std::string> unsupported_experts_type(const Call& call);

}  // namespace moeref::cuda
