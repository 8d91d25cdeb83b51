// The gate (SPEC 3): logits, scores, selection, routing weights; with expert load and auxiliary loss.
#pragma once

#include <optional>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/evaluation.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/components/forced_stages.hpp"
#include "reference_cpu/components/routing_scores.hpp"
#include "reference_cpu/components/sequence_loss.hpp"

namespace moeref {

struct GateParams {
  Bounded weight;                               ///< [E, D] in the compute type
  std::optional<Bounded> bias;                  ///< [1, E] in the compute type
  std::optional<std::vector<Real>> correction;  ///< c [E], fp32, exact or carried through updates
  std::optional<std::vector<Real>> scale;       ///< factors on the experts' routing weights [E], as stored
  Bounded input_scale;                          ///< factors on normalised tokens [1, D], as stored
  std::optional<Bounded> noise;                 ///< that the gate's tokens are multiplied by [T, D]
  std::vector<std::int64_t> accumulated_load;   ///< of earlier micro-batches [E]; empty without any
  DType stored = DType::float64;  ///< the parameters' own type, in which their gradients are stored
};

/// Reads "{prefix}weight", "{prefix}bias", "{prefix}e_score_correction_bias", "{prefix}per_expert_scale",
/// "{prefix}input_scale", "inputs/router_noise" and "inputs/accumulated_expert_load".
GateParams load_gate(const MoEConfig& config, const CallOptions& options, const NamedTensors& tensors,
                     const std::string& prefix, DType x);

/// c [E] as the gate adds it, from "{prefix}e_score_correction_bias"; nothing where the config has none.
std::optional<std::vector<Real>> load_correction(const MoEConfig& config, const NamedTensors& tensors,
                                                 const std::string& prefix);

/// The factor on an expert's routing weights, where there is one.
Real expert_scale(const GateParams& params, std::int64_t expert);

/// The results of one forward. Slots hold the ids in descending order of the selection scores, or as
/// replayed.
struct GateForward {
  Bounded logits;                        ///< z [T, E]
  Bounded scores;                        ///< S [T, E] after normalisation, as the auxiliary loss sees them
  std::vector<std::int64_t> indices;     ///< [T, k]
  std::vector<std::int64_t> dispatched;  ///< those that experts get: null where a slot is dropped (SPEC 10)
  Bounded weights;                       ///< w [T, k]
  std::vector<std::int64_t> load;        ///< [E]
  GateLosses losses;                     ///< in training alone, with n and f for the backward pass
  std::optional<Real> z_loss;            ///< likewise, with z_loss_coeff > 0 and without it (SPEC 10)
  RoutingScores routing;                 ///< the scores that the selection was made from
};

/// Ids [T, k] in place of the gate's own choices; null: it chooses.
struct GivenIds {
  const std::vector<std::int64_t>* indices = nullptr;     ///< a replay, or a candidate's
  const std::vector<std::int64_t>* dispatched = nullptr;  ///< a candidate's: see dispatched_ids
};

/// x [T, D]; mask[t] = real token. The auxiliary
/// loss takes all tokens of the call as one sequence; under context parallelism (`options.parallel.cp_size`)
/// its statistics are those of contiguous parts of the tokens, added over the ranks.
GateForward gate_forward(const MoEConfig& config, const CallOptions& options, const GateParams& params,
                         const Bounded& x, const std::vector<bool>& mask, const GivenIds& given,
                         const ForcedStages& forced = {});

struct GateBackward {
  Bounded x;                           ///< [T, D]
  Bounded weight;                      ///< [E, D]
  std::optional<Bounded> bias;         ///< [1, E]
  std::optional<Bounded> scale;        ///< of per_expert_scale, [1, E]
  std::optional<Bounded> input_scale;  ///< [1, D]
};

/// dw [T, k], the cotangent of the weights; the auxiliary loss adds its gradient to S on the way (SPEC 3.4).
GateBackward gate_backward(const MoEConfig& config, const CallOptions& options, const GateParams& params,
                           const Bounded& x, const std::vector<bool>& mask, const GateForward& saved,
                           const Bounded& dw);

}  // namespace moeref
