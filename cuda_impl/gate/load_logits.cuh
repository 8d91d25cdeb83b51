// Logits of one token in one warp: lane l holds experts l + 32 j.
#pragma once

#include "cuda_impl/gate/route_tokens.hpp"

namespace moeref::cuda {

/// Partial sums in order and the bias, rounded where the documented system stores them; -infinity past E.
/// `Arguments` are those of a kernel, with rule, tokens, in and out: given these one by one the compiler
/// takes more registers.
template <class Acc, int kItems, class Arguments>
__device__ void load_logits(const Arguments& p, std::int64_t t, Acc (&z)[kItems]) {
  const int lane = threadIdx.x % 32, experts = p.rule.experts;
  const Acc* partial = static_cast<const Acc*>(p.in.partial_logits) + t * experts;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = lane + 32 * j;
    z[j] = -INFINITY;
    if (e >= experts) continue;
    Acc sum = partial[e];
    for (int s = 1; s < p.in.splits; ++s) sum += partial[s * p.tokens * experts + e];
    z[j] = round_to(sum, p.rule.compute);
    if (p.in.bias)
      z[j] = round_to(z[j] + round_to(load_element<Acc>(p.in.bias, p.in.parameter_type, e), p.rule.compute),
                      p.rule.compute);
    if (p.out.logits) store_element(p.out.logits, p.rule.compute, t * experts + e, z[j]);
  }
}

}  // namespace moeref::cuda
