// Random parameters of the components, with places for their gradients.
#pragma once

#include "moeref/cuda/experts.hpp"
#include "moeref/cuda/gate.hpp"
#include "moeref/cuda/mlp.hpp"
#include "tools/bench/cuda/buffers.hpp"
#include "tools/bench/products.hpp"

namespace moeref::cuda::bench {

struct GateTensors {
  GateParameters values{nullptr};
  Parameter weight, bias;  ///< without gradients where the gate is frozen
};
struct ExpertsTensors {
  ExpertsWeights values{};
  ExpertsGradients gradients{};  ///< x and weights are left null
};
struct MLPTensors {
  MLPWeights values{};
  MLPGradients gradients{};  ///< x is left null
};

/// The deviation 1 / sqrt(D) gives logits of deviation 1, so that tokens go to nearly random experts; the
/// correction bias, where there is one, is 0.
GateTensors gate_tensors(const MoEConfig& config, Buffers& memory);
/// Deviation 0.02 as here and there in published models, biases too.
ExpertsTensors experts_tensors(const MoEConfig& config, Buffers& memory);
MLPTensors mlp_tensors(const moeref::MLPConfig& config, Buffers& memory);

}  // namespace moeref::cuda::bench
