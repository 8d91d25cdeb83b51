// The gate's backward pass once more, in plain double arithmetic, with parts that a mutant may replace.
#pragma once

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

struct GateParts {
  bool softmax_keeps_sum = true;        ///< d_i less sum_j s_j d_j
  bool normalisation_has_slope = true;  ///< the sum of the selected scores depends on them
  bool loss_normalisation_has_slope = true;
  bool maximum_holds_slope = true;  ///< no slope by a sum below norm_eps, where the larger of the two divides
  bool logit_map_has_slope = true;  ///< of logit_scale and logit_cap
  bool slots_add = true;            ///< else of a token's slots the last one's gradient is left
  /// dS/dz of the scores that are independent, by s and z.
  double (*slope)(ScoreFunc, double score, double logit) = nullptr;
};

/// Gradients of a gate call on the routing of its sound results.
NamedTensors plain_gate_gradients(const Call& call, const NamedTensors& results, const GateParts& parts);

/// The sound results plus what the parts change in the plain gradients; a call of another component as it is.
NamedTensors with_gate_parts(Implementation& sound, const Call& call, const GateParts& parts);

}  // namespace moeref
