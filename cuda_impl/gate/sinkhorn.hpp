// Selection by Sinkhorn's balancing (SPEC.md 10, selection_scores): factors d0 of tokens and d1 of experts,
// so that the choice is among q_te = d1_e exp(z_te) d0_t.
#pragma once

#include "cuda_impl/gate/route_tokens.hpp"

namespace moeref::cuda {

struct BalancedFactors {
  float* grown;    // [T, E] exp(z)
  float* tokens;   // [T] d0
  float* experts;  // [E] d1
};

/// From the logits of `in`, all tokens, masked ones too, in fp32: rounds until d1 changes by `tolerance` in
/// the mean at most, or cannot be compared, 1000 at most. Two launches; the host does not learn the number of
/// rounds.
void balance(const RoutingRule& rule, std::int64_t tokens, const RouteInput& in, double tolerance,
             const BalancedFactors& out, cudaStream_t stream);

}  // namespace moeref::cuda
