// The MoE layer (SPEC 6): gate, routed experts, latent projections, shared experts with their gate, padding.
#pragma once

#include <optional>

#include "reference_cpu/components/experts.hpp"
#include "reference_cpu/components/gate.hpp"
#include "reference_cpu/components/mlp.hpp"
#include "reference_cpu/components/parallelism.hpp"

namespace moeref {

struct MoEForward {
  std::optional<GateForward> gate;        ///< absent with the fake balanced gate
  std::vector<std::int64_t> indices;      ///< [T, k], those that experts get
  Bounded weights;                        ///< [T, k]
  Bounded latent;                         ///< the routed input: x, or fc1_latent_proj(x), normalised or not,
                                          ///< rounded where experts compute in another type
  std::optional<ExpertsForward> experts;  ///< of one rank
  std::optional<ParallelForward> parallel;  ///< of several ranks
  Bounded routed;                           ///< the experts' y, normalised or not, before fc2
  std::optional<Bounded> not_normed;        ///< what latent_norm was given for `latent` or `routed`
  std::optional<MLPForward> shared;
  std::optional<Bounded> shared_gate;  ///< sigmoid(x w_sg^T) [T, 1]
  Bounded y;                           ///< [T, D]
};

/// x [T, D]; mask[t] = not padding; parameters under "params/".
MoEForward moe_forward(const MoEConfig& config, const CallOptions& options, const NamedTensors& tensors,
                       const Bounded& x, const std::vector<bool>& mask, const GivenIds& given,
                       const ForcedStages& forced = {});

/// dy [T, D]. Returns d x; parameter gradients go to `grads` under "grads/...".
Bounded moe_backward(const MoEConfig& config, const CallOptions& options, const NamedTensors& tensors,
                     const Bounded& x, const std::vector<bool>& mask, const MoEForward& saved,
                     const Bounded& dy, std::map<std::string, BoundedTensor>& grads);

/// Writes the gradients of an MLP's parameters under "grads/{prefix}gate_proj.weight" and so on, in their own
/// types.
void add_mlp_gradients(const NamedTensors& tensors, MLPParams gradients, const std::string& prefix,
                       std::map<std::string, BoundedTensor>& grads);

}  // namespace moeref
