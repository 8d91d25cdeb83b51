// The score functions of the gate (SPEC.md 3.1): one row per function, and the formulas that the rows name,
// for one token in one warp: lane l holds experts l + 32 j.
#pragma once

#include <array>

#include "moeref/cuda/gate.hpp"
#ifdef __CUDACC__
#include "cuda_impl/token_blocks/warp_reduce.cuh"
#endif

namespace moeref::cuda {

enum class ScoreFormula { softmax, sigmoid, sqrtsoftplus };

/// What sets a score function apart; layout.cpp asserts one row per function.
struct ScoreRow {
  ScoreFunction kind;
  ScoreFormula formula;
  bool chooses_by_logits;  // without a correction; softmax comes before or after the choice
  bool grouped;            // n_expert_groups is heeded
  bool top2_if_corrected;  // a group's score is its largest q unless there is a correction, else of two
  bool discard_to_zero;    // q of other groups
  bool weighs_corrected;   // heeds weight_uses_correction
  bool at_float32;         // in float32 under every gate_precision
};
inline constexpr std::array kScoreRows{
    ScoreRow{ScoreFunction::softmax, ScoreFormula::softmax, true, false, false, true, false, false},
    ScoreRow{ScoreFunction::sigmoid, ScoreFormula::sigmoid, false, true, true, true, true, false},
    ScoreRow{ScoreFunction::sigmoid_with_bias, ScoreFormula::sigmoid, false, true, false, false, false,
             false},
    ScoreRow{ScoreFunction::softmax_with_bias, ScoreFormula::softmax, false, true, false, true, false, false},
    ScoreRow{ScoreFunction::sqrtsoftplus, ScoreFormula::sqrtsoftplus, false, false, false, true, false, true},
};

#ifdef __CUDACC__

/// Without the overflow of exp(-z), and accurate to the last bits for both signs.
template <class Acc>
__device__ Acc sigmoid(Acc z) {
  const Acc e = exp(-fabs(z));
  return (z >= Acc(0) ? Acc(1) : e) / (Acc(1) + e);
}
template <class Acc>
__device__ Acc softplus(Acc z) {
  const Acc v = fmax(z, Acc(0)) + log1p(exp(-fabs(z)));
  return z == z ? v : z;  // fmax drops a NaN
}

/// exp(z - max) / sum over the warp's numbers; `valid(j)` says which of them are there. NaN anywhere makes
/// all NaN.
template <class Acc, int kItems, class Valid>
__device__ void warp_softmax(const Acc (&z)[kItems], Valid valid, Acc (&s)[kItems]) {
  Acc largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    if (valid(j)) largest = fmax(largest, z[j]);
  largest = warp_largest(largest);
  Acc sum = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    s[j] = valid(j) ? exp(z[j] - largest) : Acc(0);
    sum += s[j];
  }
  sum = warp_sum(sum);
#pragma unroll
  for (int j = 0; j < kItems; ++j) s[j] /= sum;
}

/// log sum exp of the warp's numbers.
template <class Acc, int kItems, class Valid>
__device__ Acc warp_log_sum_exp(const Acc (&z)[kItems], Valid valid) {
  Acc largest = -INFINITY, sum = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    if (valid(j)) largest = fmax(largest, z[j]);
  largest = warp_largest(largest);
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    if (valid(j)) sum += exp(z[j] - largest);
  return largest + log(warp_sum(sum));
}

/// What a row of numbers is divided by whose sum is `sum`. NaN stays NaN.
template <bool kBeyond, class Acc, class Rule>
__device__ Acc denominator(const Rule& rule, Acc sum) {
  if constexpr (!kBeyond) return sum + Acc(1e-20);
  const Acc eps = static_cast<Acc>(rule.norm_eps);
  return !rule.norm_at_most ? sum + eps : sum < eps ? eps : sum;
}

/// Logits as the score functions take them, in place; for rules that map them.
template <class Acc, int kItems, class Rule>
__device__ void map_logits(const Rule& rule, Acc (&z)[kItems]) {
  const Acc scale = static_cast<Acc>(rule.logit_scale), cap = static_cast<Acc>(rule.logit_cap);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    if (static_cast<int>(threadIdx.x % 32) + 32 * j >= rule.experts) continue;
    z[j] *= scale;
    if (cap > Acc(0)) z[j] = cap * tanh(z[j] / cap);
  }
}

/// S of one token.
template <class Acc, int kItems>
__device__ void scores_of(ScoreFormula formula, int experts, const Acc (&z)[kItems], Acc (&s)[kItems]) {
  const int lane = threadIdx.x % 32;
  switch (formula) {
    case ScoreFormula::softmax:
      warp_softmax(
          z, [&](int j) { return lane + 32 * j < experts; }, s);
      return;
    case ScoreFormula::sigmoid:
#pragma unroll
      for (int j = 0; j < kItems; ++j) s[j] = sigmoid(z[j]);
      return;
    case ScoreFormula::sqrtsoftplus:
#pragma unroll
      for (int j = 0; j < kItems; ++j) s[j] = sqrt(softplus(z[j]));
  }
}

/// d loss / d z from d loss / d S, in place.
template <class Acc, int kItems>
__device__ void scores_gradient(ScoreFormula formula, const Acc (&z)[kItems], const Acc (&s)[kItems],
                                Acc (&d)[kItems]) {
  switch (formula) {
    case ScoreFormula::softmax: {
      Acc inner = 0;
#pragma unroll
      for (int j = 0; j < kItems; ++j) inner += s[j] * d[j];
      inner = warp_sum(inner);
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] = s[j] * (d[j] - inner);
      return;
    }
    case ScoreFormula::sigmoid:
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] = d[j] * (Acc(1) - s[j]) * s[j];
      return;
    case ScoreFormula::sqrtsoftplus:
      // Where S underflows the documented system divides by 0; the limit of the gradient is 0.
#pragma unroll
      for (int j = 0; j < kItems; ++j)
        d[j] = s[j] == Acc(0) ? Acc(0) : d[j] / (s[j] * Acc(2)) * sigmoid(z[j]);
  }
}
#endif

}  // namespace moeref::cuda
