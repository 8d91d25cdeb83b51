// The routed experts (SPEC 5): y_t = sum over the token's slots of down(act(x_t up) * p), or p after down, or
// on x_t (SPEC 10).
#pragma once

#include <vector>

#include "moeref/config.hpp"
#include "moeref/evaluation.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/call/ranks.hpp"
#include "reference_cpu/components/forced_stages.hpp"
#include "reference_cpu/quantization/dequantize.hpp"

namespace moeref {

/// The matrices W [K, N] of the experts, x @ W: numbers [E, K, N], or quantised.
struct ExpertMatrices {
  const Tensor* numbers = nullptr;  ///< null where they are quantised, and have no gradient
  QuantizedWeights quantized;
};

/// The parameters' tensors. They are read expert by expert, so that a layer of real width fits in memory.
struct ExpertsParams {
  ExpertMatrices gate_and_up_projs;  ///< [E, D', 2I or I]
  ExpertMatrices down_projs;         ///< [E, I, D']
  const Tensor* gate_up_proj_bias;   ///< [E, 2I or I], null without expert_bias
  const Tensor* down_proj_bias;      ///< [E, D']
};
ExpertsParams find_experts(const MoEConfig& config, const NamedTensors& tensors, const std::string& prefix);

/// The tokens as the routed experts get them: rounded to expert_compute_dtype where there is one (SPEC 10).
/// Where the weight stands on the input, either they are rounded or their product with it is.
Bounded experts_tokens(const MoEConfig& config, Bounded x);

/// The routing of T tokens: ids and weights [T, k]; slots of masked tokens and null slots go nowhere.
struct Routing {
  const std::vector<std::int64_t>& indices;
  const Bounded& weights;
  const std::vector<bool>& mask;
};

/// By slot (t k + j); rows of slots that went nowhere are zero.
struct ExpertsForward {
  Bounded up;          ///< h [T k, 2I or I]
  Bounded activation;  ///< act(h), times p where the weight stands there, [T k, I]
  Bounded down;        ///< o [T k, D'], before a weight that comes after
  Bounded y;           ///< [T, D']: slots added in slot order, in fp32, stored in x's type
};

/// x [T, D'].
ExpertsForward experts_forward(const MoEConfig& config, const CallOptions& options,
                               const ExpertsParams& params, const Bounded& x, const Routing& routing,
                               ExpertRange range, const ForcedStages& forced = {});

/// y from the rows of the slots of a range of experts. Where other ranks hold a token's other slots, the
/// bound of its y is this part's share of the bound that holds for the whole sum in any order: the parts are
/// then added without further rounding (PartSum).
Bounded combine(const MoEConfig& config, const ExpertsForward& forward, const Routing& routing,
                ExpertRange range, DType stored);

/// The gradients that are no results yet. Those of parameters are, for whole parameters: experts of the
/// range, and zero elsewhere.
struct ExpertsBackward {
  Bounded x;        ///< [T, D']
  Bounded weights;  ///< [T, k]
};

/// dy [T, D']. Parameter gradients go to `grads` under "grads/{prefix}...", which are made where missing. The
/// bound of x's gradient holds for a sum with `others` further terms per token and with the token's slots on
/// other ranks, added in any order. `ranks` as in bound_rank_parts, where all of them have these experts.
ExpertsBackward experts_backward(const MoEConfig& config, const CallOptions& options,
                                 const ExpertsParams& params, const Bounded& x, const Routing& routing,
                                 ExpertRange range, const ExpertsForward& saved, const Bounded& dy,
                                 const std::string& prefix, std::map<std::string, BoundedTensor>& grads,
                                 std::int64_t others = 0, RankRows ranks = {});

}  // namespace moeref
