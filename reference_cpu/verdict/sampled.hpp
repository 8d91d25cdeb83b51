// The verdict on a call that is too large for the reference: a sample of its tokens, and of the hidden units
// of its experts, judged by the same running bounds as a whole call (VERDICTS.md, "Calls that are too
// large").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moeref/verdict.hpp"

namespace moeref {

struct SampleSize {
  std::int64_t tokens = 64;  ///< at random, one in each of so many stretches; the edges come on top
  std::int64_t experts = 6;  ///< whose weight gradients are judged
  std::int64_t units = 8;    ///< hidden units of each of them, at random; the edges come on top
  double bytes = 0x1p32;     ///< that the reference may take; experts with too many rows are left out
};

struct SampledVerdict {
  CaseVerdict verdict;
  std::int64_t judged = 0;  ///< elements of the call's results that were judged, of
  std::int64_t elements = 0;
  std::int64_t tokens = 0;       ///< that were drawn at random
  std::int64_t copied = 0;       ///< elements of the third call that were judged
  std::int64_t open_copies = 0;  ///< its tokens of which the choice of experts alone was judged
};

/// Draws the sample from a seed that the port's answer is mixed into, after it has been given.
class SampledJudge {
 public:
  /// For a call that can be reduced (reduced_call.hpp). Both must outlive it.
  SampledJudge(const Call& call, const NamedTensors& results, const SampleSize& size = {});

  /// The tokens of the sample, ascending: the first and the last, those before and at every power of two, the
  /// last ones of some experts, those with the largest output, with none, and with one that is not finite,
  /// and a random one in each of SampleSize::tokens equal stretches of tokens.
  const std::vector<std::int64_t>& tokens() const { return tokens_; }

  /// A second call to make: the cotangent is 0 but at those tokens, and there is no auxiliary loss.
  Call sparse_call() const;

  /// A third call to make: each token is a copy of one of those, and there is no auxiliary loss.
  Call copies_call() const;

  /// Judged: rows of outputs and of gradients by token; gradients of hidden units of some experts; gradients
  /// of experts without tokens, which are 0; load and range of all ids; of the second call every element of
  /// every gradient; of the third every element of every result by token. `sparse` and `copies` are the
  /// results of these calls; the former is null where the call has no backward pass.
  SampledVerdict judge(const NamedTensors* sparse, const NamedTensors* copies,
                       const JudgeOptions& options = {}) const;

 private:
  void draw_tokens();
  std::vector<std::int64_t> draw_units(std::int64_t width, std::uint64_t stream) const;
  std::vector<std::int64_t> draw_experts() const;

  const Call& call_;
  const NamedTensors& results_;
  SampleSize size_;
  std::uint64_t seed_ = 0;
  const Tensor* ids_ = nullptr;  ///< [T, k], given or the port's; null where there are none, or none usable
  std::string ids_finding_;      ///< why they are not usable
  std::vector<std::int64_t> rows_;  ///< of every expert
  std::vector<std::int64_t> tokens_;
  std::vector<std::int64_t> copied_;  ///< for each token of the third call, its place in tokens_
  std::int64_t random_tokens_ = 0;
};

}  // namespace moeref
