// The reference's results for one call. Each evaluation is made when it is first asked for, and once for all
// readers: the judge, the identity check, the evidence of a report.
#pragma once

#include <optional>
#include <string>

#include "moeref/reference.hpp"
#include "moeref/verdict.hpp"

namespace moeref {

/// Not for use by several threads at a time. The call must outlive it.
class ReferenceResults {
 public:
  explicit ReferenceResults(const Call& call) : call_(call) {}
  explicit ReferenceResults(const Call&&) = delete;

  const Call& call() const { return call_; }

  /// The call on the reference's own routing.
  const Evaluation& own();

  /// The call on the candidate's routing, as far as its ids can be computed with: later choices follow from
  /// earlier ones through the correction bias, and everything after selection from the ids. Where the
  /// candidate chose as the reference did these are own()'s results. Kept for the last ids that differed.
  const Evaluation& on_routing_of(const NamedTensors& candidate);

  /// The same, each stage starting from the earlier ones as the candidate shows them ("stages/..."). Not
  /// kept.
  Evaluation on_stages_of(const NamedTensors& candidate);

  /// The first of the candidate's tensors that is not own() rounded to the type that the tensor is stored in,
  /// in words; nothing where all are.
  std::optional<std::string> differing_bits(const NamedTensors& candidate);

  /// How many times the call was computed.
  int evaluations() const { return evaluations_; }

 private:
  Evaluation compute(const NamedTensors& routing, const NamedTensors& stages);
  NamedTensors usable_ids(const NamedTensors& candidate);

  const Call& call_;
  std::optional<Evaluation> own_, forced_;
  NamedTensors forced_ids_;
  int evaluations_ = 0;
};

/// Whether the tensor has the shape and type of this decision's ids, with any values.
bool has_ids(const RoutingScores& routing, const Tensor* ids);

/// Whether anything can be computed on these ids: distinct experts of the right shape.
bool usable(const RoutingScores& routing, const Tensor* ids);

/// judge() for a caller that has more questions about the same call.
CaseVerdict judge(ReferenceResults& reference, const NamedTensors& candidate,
                  const JudgeOptions& options = {});

}  // namespace moeref
