// Whether a candidate's choice of experts is what its own logits or scores lead to, where it shows them
// (VERDICTS.md, Routing). Near ties that the reference's bounds leave open are closed there: the candidate
// has one set of numbers, and they are in sight.
#pragma once

#include <string>
#include <vector>

#include "moeref/verdict.hpp"

namespace moeref {

struct OwnSelection {
  bool shown = false;        ///< there were logits or scores to judge by
  std::vector<bool> proven;  ///< per token, its ids are what they lead to; empty where nothing was shown
  std::int64_t wrong = -1;   ///< the first token whose ids do not follow, -1 where there is none
  std::string finding;       ///< why, there
};

/// Judges the ids of a gate's or a layer's one routing decision, which must be usable(). What is shown is
/// read in three ways, and the first that explains every token counts: the candidate went on with the numbers
/// as they are; with these rounded to the type that the documented system holds; with finer ones, of which
/// they are the roundings. A token is proven when that reading leaves nothing open but exactly equal scores.
OwnSelection judge_own_selection(const Call& call, const NamedTensors& candidate,
                                 const RoutingScores& routing, const Tensor& ids,
                                 const JudgeOptions& options);

}  // namespace moeref
