// The MLP, which is also the shared experts (SPEC 2): down(silu(gate(x)) * up(x)), or down(relu(up(x))^2).
#pragma once

#include <optional>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// Linear weights [out, in] and biases [1, out]; gate_* absent for relu2, biases absent without `bias`.
struct MLPParams {
  std::optional<Bounded> gate_weight, gate_bias;
  Bounded up_weight, down_weight;
  std::optional<Bounded> up_bias, down_bias;
};

/// Reads "{prefix}gate_proj.weight" and so on, cast to the type `compute` of the activations.
MLPParams load_mlp(const MLPConfig& config, const NamedTensors& tensors, const std::string& prefix,
                   DType compute);

struct MLPForward {
  std::optional<Bounded> gate;  ///< [T, inter]
  Bounded up;                   ///< [T, inter]
  Bounded activation;           ///< [T, inter]
  Bounded y;                    ///< [T, dim]
};

/// x [T, dim].
MLPForward mlp_forward(const MLPConfig& config, const CallOptions& options, const MLPParams& params,
                       const Bounded& x);

struct MLPBackward {
  std::vector<Bounded> x;  ///< the terms of x's gradient, one per projection that reads x
  MLPParams params;        ///< gradients under the parameters' names
};

/// dy [T, dim]; `ranks` as in bound_rank_parts.
MLPBackward mlp_backward(const MLPConfig& config, const CallOptions& options, const MLPParams& params,
                         const Bounded& x, const MLPForward& saved, const Bounded& dy, RankRows ranks = {});

}  // namespace moeref
