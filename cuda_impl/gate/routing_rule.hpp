// The gate's config as its kernels read it.
#pragma once

#include "cuda_impl/gate/score.cuh"
#include "cuda_impl/memory/typed_element.cuh"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

/// `beyond`: kernels have two instances, and only that for rules beyond the documented system's looks at the
/// fields under it, so that the other takes no register more.
struct RoutingRule {
  ScoreFormula formula;
  bool softmax_before_topk;
  bool softmax_of_selected;  // softmax otherwise: logits choose, w is the softmax over the k
  bool normalise;            // the weights, and S as the auxiliary loss sees it
  bool weigh_corrected;      // the weights are gathered from S + c
  bool corrected;            // q = S + c
  int experts, slots;
  int groups, limited_groups;  // 1, 1 where groups are ignored
  bool group_top2;             // a group's score is the sum of its two largest q, else its largest
  bool discard_to_zero;        // q of other groups becomes 0, else -infinity
  double route_scale;
  DataType compute;  // logits
  DataType scores;   // S as the auxiliary loss sees it, and the weights before their own type

  bool beyond;
  bool normalise_scores;  // S, and `normalise` the weights alone
  bool norm_at_most;      // max(sum, norm_eps) divides, else sum + norm_eps, which is 1e-20 otherwise
  double norm_eps;
  bool selects_logits;  // q is the logit, plus c, beside any formula
  bool maps_logits;     // z is logit_cap tanh(logit_scale z / logit_cap), or logit_scale z without a cap
  double logit_scale, logit_cap;
  int group_sum;        // beyond 2: so many of a group's largest q are added
  int always_selected;  // the last experts, in the last slots
  bool raw_weights;     // neither divided nor rounded: kept_slots.hpp divides them
};

}  // namespace moeref::cuda
