// The gate's config as its kernels read it.
#pragma once

#include "cuda_impl/gate/score.cuh"
#include "cuda_impl/memory/typed_element.cuh"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

struct RoutingRule {
  ScoreFormula formula;
  bool softmax_before_topk;
  bool softmax_of_selected;  // softmax otherwise: logits choose, w is the softmax over the k
  bool normalise;            // norm_topk_prob and k > 1
  bool weigh_corrected;      // the weights are gathered from S + c
  bool corrected;            // q = S + c
  int experts, slots;
  int groups, limited_groups;  // 1, 1 where groups are ignored
  bool group_top2;             // a group's score is the sum of its two largest q, else its largest
  bool discard_to_zero;        // q of other groups becomes 0, else -infinity
  double route_scale;
  DataType compute;  // logits
  DataType scores;   // S as the auxiliary loss sees it, and the weights before their own type
};

}  // namespace moeref::cuda
