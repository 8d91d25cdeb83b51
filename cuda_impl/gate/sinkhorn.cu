// exp(z) by one warp per token; then all rounds in one block, since each needs the sums of all tokens and how
// many there are is known on the device alone. A round reads exp(z) once: a warp adds up a token over the
// experts, and at once the token's part of the experts' sums, lane l for experts l + 32 j; warps add these in
// turn, so that the bits are the same on every run.
//
// Floor: a round is 4 T E bytes from the L2 into one multiprocessor, 8 MiB or about 80 us at T = 16384, E =
// 128 and 64 bytes a clock.
#include "cuda_impl/gate/sinkhorn.hpp"

#include "cuda_impl/gate/load_logits.cuh"
#include "cuda_impl/gate/score.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kGrowWarps = 8, kBalanceWarps = 16, kMostRounds = 1000;
constexpr float kSinkhornGuard = 1e-8f;

struct GrowArguments {
  RoutingRule rule;
  std::int64_t tokens;
  RouteInput in;
  RouteOutput out;  // empty
  float* grown;
};

template <class Acc, int kItems>
__global__ void grow_kernel(const GrowArguments p) {
  const std::int64_t t = blockIdx.x * std::int64_t{kGrowWarps} + threadIdx.x / 32;
  if (t >= p.tokens) return;
  Acc z[kItems];
  load_logits(p, t, z);
  if (p.rule.maps_logits) map_logits(p.rule, z);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = threadIdx.x % 32 + 32 * j;
    if (e < p.rule.experts) p.grown[t * p.rule.experts + e] = exp(static_cast<float>(z[j]));
  }
}

struct BalanceArguments {
  std::int64_t tokens;
  int experts;
  float token_share, expert_share, tolerance;  // 1 / T, 1 / E
  BalancedFactors factors;
};

template <int kItems>
__global__ __launch_bounds__(32 * kBalanceWarps) void balance_kernel(const BalanceArguments p) {
  __shared__ float factors[32 * kItems], sums[32 * kItems], changes[kBalanceWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int e = threadIdx.x; e < 32 * kItems; e += blockDim.x) factors[e] = 1.0f;
  for (int round = 0; round < kMostRounds; ++round) {
    for (int e = threadIdx.x; e < 32 * kItems; e += blockDim.x) sums[e] = 0.0f;
    __syncthreads();
    float own[kItems] = {};
    for (std::int64_t t = warp; t < p.tokens; t += kBalanceWarps) {
      float grown[kItems], sum = 0;
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        const int e = lane + 32 * j;
        grown[j] = e < p.experts ? p.factors.grown[t * p.experts + e] : 0.0f;
        sum += factors[e] * grown[j];
      }
      const float factor = p.token_share / (warp_sum(sum) + kSinkhornGuard);
      if (lane == 0) p.factors.tokens[t] = factor;
#pragma unroll
      for (int j = 0; j < kItems; ++j) own[j] += factor * grown[j];
    }
    for (int w = 0; w < kBalanceWarps; ++w) {
      if (w == warp)
#pragma unroll
        for (int j = 0; j < kItems; ++j) sums[lane + 32 * j] += own[j];
      __syncthreads();
    }
    float change = 0;
    for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
      const float next = p.expert_share / (sums[e] + kSinkhornGuard);
      change += fabsf(factors[e] - next);
      factors[e] = next;
    }
    change = warp_sum(change);
    if (lane == 0) changes[warp] = change;
    __syncthreads();
    change = 0;
    for (int w = 0; w < kBalanceWarps; ++w) change += changes[w];
    if (!(change * p.expert_share > p.tolerance)) break;
  }
  __syncthreads();
  for (int e = threadIdx.x; e < p.experts; e += blockDim.x) p.factors.experts[e] = factors[e];
}

}  // namespace

void balance(const RoutingRule& rule, std::int64_t tokens, const RouteInput& in, double tolerance,
             const BalancedFactors& out, cudaStream_t stream) {
  if (tokens == 0) return;
  const int items = token_blocks(tokens, rule.experts, false).items;
  const auto blocks = static_cast<unsigned>((tokens + kGrowWarps - 1) / kGrowWarps);
  const auto grow = [&]<class Acc, int kItems>() {
    grow_kernel<Acc, kItems>
        <<<blocks, 32 * kGrowWarps, 0, stream>>>(GrowArguments{rule, tokens, in, {}, out.grown});
    check(cudaGetLastError(), "balance, exponentials");
  };
  const bool fp64 = rule.compute == DataType::float64;
  with_items(fp64 ? token_blocks(tokens, rule.experts, true).items : items, fp64, grow);
  const BalanceArguments arguments{tokens,
                                   rule.experts,
                                   static_cast<float>(1.0 / static_cast<double>(tokens)),
                                   static_cast<float>(1.0 / rule.experts),
                                   static_cast<float>(tolerance),
                                   out};
  with_items(items, false, [&]<class Acc, int kItems>() {
    if constexpr (sizeof(Acc) == 4) balance_kernel<kItems><<<1, 32 * kBalanceWarps, 0, stream>>>(arguments);
  });
  check(cudaGetLastError(), "balance, rounds");
}

}  // namespace moeref::cuda
