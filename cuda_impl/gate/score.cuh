// The score functions of the gate (SPEC.md 3.1), for one token in one warp: lane l holds experts l + 32 j.
#pragma once

#include "cuda_impl/gate/routing_rule.hpp"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {

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

/// S of one token.
template <class Acc, int kItems>
__device__ void scores_of(const RoutingRule& rule, const Acc (&z)[kItems], Acc (&s)[kItems]) {
  const int lane = threadIdx.x % 32;
  switch (rule.function) {
    case ScoreFunction::softmax:
    case ScoreFunction::softmax_with_bias:
      warp_softmax(
          z, [&](int j) { return lane + 32 * j < rule.experts; }, s);
      return;
    case ScoreFunction::sigmoid:
    case ScoreFunction::sigmoid_with_bias:
#pragma unroll
      for (int j = 0; j < kItems; ++j) s[j] = sigmoid(z[j]);
      return;
    case ScoreFunction::sqrtsoftplus:
#pragma unroll
      for (int j = 0; j < kItems; ++j) s[j] = sqrt(softplus(z[j]));
  }
}

/// d loss / d z from d loss / d S, in place.
template <class Acc, int kItems>
__device__ void scores_gradient(const RoutingRule& rule, const Acc (&z)[kItems], const Acc (&s)[kItems],
                                Acc (&d)[kItems]) {
  switch (rule.function) {
    case ScoreFunction::softmax:
    case ScoreFunction::softmax_with_bias: {
      Acc inner = 0;
#pragma unroll
      for (int j = 0; j < kItems; ++j) inner += s[j] * d[j];
      inner = warp_sum(inner);
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] = s[j] * (d[j] - inner);
      return;
    }
    case ScoreFunction::sigmoid:
    case ScoreFunction::sigmoid_with_bias:
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] = d[j] * (Acc(1) - s[j]) * s[j];
      return;
    case ScoreFunction::sqrtsoftplus:
      // Where S underflows the documented system divides by 0; the limit of the gradient is 0.
#pragma unroll
      for (int j = 0; j < kItems; ++j)
        d[j] = s[j] == Acc(0) ? Acc(0) : d[j] / (s[j] * Acc(2)) * sigmoid(z[j]);
  }
}

}  // namespace moeref::cuda
