// What the reference gives for a call: every value with its running error bound, and the scores that each
// routing decision was made from.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moeref/tensor.hpp"

namespace moeref {

/// A result of the reference: fp64 values, and for each the largest error that an honest implementation in
/// the call's precision can make (VERDICTS.md; bound 0 = the value is exact, as ids, counts and untouched
/// parameters are).
struct BoundedTensor {
  DType dtype = DType::float64;  ///< what an honest implementation returns it in
  Shape shape;
  std::vector<double> value;
  std::vector<float> bound;  ///< rounded up
};

/// What one routing decision was made from, so that any other implementation's ids can be judged
/// (verdict.hpp).
struct RoutingScores {
  std::string indices;  ///< the name of the ids it belongs to: "outputs/indices", "outputs/indices_2_0"
  std::int64_t tokens = 0, experts = 0, groups = 1, limited_groups = 1, k = 0;
  bool discarded_groups_are_zero = false;  ///< else they cannot be chosen
  std::vector<double> score, score_bound;  ///< [tokens, experts], before groups are discarded
  std::vector<double> group, group_bound;  ///< [tokens, groups]; empty without groups
};

struct Evaluation {
  std::map<std::string, BoundedTensor> results;  ///< "outputs/...", "grads/...", "stages/..."
  std::vector<RoutingScores> routing;
};

}  // namespace moeref
