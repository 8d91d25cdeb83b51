// The documented configs as the CUDA components take them.
#pragma once

#include "moeref/config.hpp"
#include "moeref/cuda/experts.hpp"
#include "moeref/cuda/gate.hpp"
#include "moeref/cuda/mlp.hpp"
#include "moeref/cuda/moe.hpp"

namespace moeref::cuda {

Activation activation_of(ActivationKind kind);

/// `parameter_type` is that of the gate's weight. Throws ArgumentError for a gate_precision that no kernel
/// has.
GateConfig gate_config(const MoEConfig& config, const CallOptions& options, std::int64_t tokens,
                       DataType x_type, DataType parameter_type);
/// In which the routed experts compute.
DataType experts_type(const MoEConfig& config, DataType tokens);
ExpertsConfig experts_config(const MoEConfig& config, std::int64_t tokens, DataType type, ExpertsPath path);
MLPConfig mlp_config(const moeref::MLPConfig& config, std::int64_t tokens, DataType type);
LayerConfig layer_config(const MoEConfig& config, const CallOptions& options, std::int64_t tokens,
                         DataType type, DataType gate_type, ExpertsPath path);

}  // namespace moeref::cuda
