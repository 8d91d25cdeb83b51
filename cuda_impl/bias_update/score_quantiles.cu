// S - alpha of every token by one warp, then one block per expert that finds its quantile bit by bit: a
// number's key grows with it, and of the 32 bits of the key that is sought each is set where enough tokens'
// keys remain.
//
// Floor: 4 T E bytes written, and read 32 times from the L2.
#include "moeref/cuda/score_quantiles.hpp"

#include <string>

#include "cuda_impl/gate/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kRestWarps = 8, kQuantileThreads = 256, kUpdateThreads = 1024;

struct RestArguments {
  RoutingRule rule;
  std::int64_t tokens;
  const void* logits;
  const float* correction;
  float* rest;  // [E, T]
};

template <class Acc, int kItems>
__global__ void rest_kernel(const RestArguments p) {
  const std::int64_t t = blockIdx.x * std::int64_t{kRestWarps} + threadIdx.x / 32;
  if (t >= p.tokens) return;
  const int lane = threadIdx.x % 32, experts = p.rule.experts;
  Acc z[kItems], s[kItems], q[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = lane + 32 * j;
    z[j] = e < experts ? load_element<Acc>(p.logits, p.rule.compute, t * experts + e) : Acc(-INFINITY);
  }
  if (p.rule.maps_logits) map_logits(p.rule, z);
  if (p.rule.selects_logits) {
#pragma unroll
    for (int j = 0; j < kItems; ++j) s[j] = z[j];
  } else {
    scores_of(p.rule.formula, experts, z, s);
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = lane + 32 * j;
    q[j] = e < experts ? s[j] + static_cast<Acc>(p.correction[e]) : Acc(-INFINITY);
  }
  // The largest, k times taken away where it comes first; what is then the largest is alpha.
  Acc alpha = 0;
  for (int taken = 0; taken <= p.rule.slots; ++taken) {
    Acc mine = -INFINITY;
#pragma unroll
    for (int j = 0; j < kItems; ++j) mine = fmax(mine, q[j]);
    alpha = warp_largest(mine);
    const unsigned holders = __ballot_sync(0xffffffffu, mine == alpha);
    if (lane != __ffsll(static_cast<long long>(holders)) - 1) continue;
    bool found = false;
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const bool here = !found && q[j] == alpha;
      q[j] = here ? Acc(-INFINITY) : q[j];
      found = found || here;
    }
  }
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = lane + 32 * j;
    if (e < experts) p.rest[e * p.tokens + t] = static_cast<float>(s[j] - alpha);
  }
}

/// Grows with the number.
__device__ unsigned key_of(float v) {
  const unsigned bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float number_of(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/// How many real tokens have a key of at least that, the same for all threads. All threads call it.
__device__ int count_from(unsigned least, const float* rest, const std::uint8_t* mask, std::int64_t tokens,
                          int* total) {
  __syncthreads();
  if (threadIdx.x == 0) *total = 0;
  __syncthreads();
  int own = 0;
  for (std::int64_t t = threadIdx.x; t < tokens; t += blockDim.x)
    own += (!mask || mask[t]) && key_of(rest[t]) >= least;
  atomicAdd(total, own);
  __syncthreads();
  return *total;
}

__global__ __launch_bounds__(kQuantileThreads) void quantile_kernel(std::int64_t tokens, int experts,
                                                                    int slots, const float* rests,
                                                                    const std::uint8_t* mask,
                                                                    QuantileSums out) {
  __shared__ int total;
  const float* rest = rests + blockIdx.x * tokens;
  const int real = count_from(0, rest, mask, tokens, &total);
  if (real == 0) return;
  const std::int64_t share = std::int64_t{real} * slots / experts;
  unsigned key = 0;
  for (unsigned bit = 0x80000000u; bit != 0; bit /= 2)
    if (count_from(key | bit, rest, mask, tokens, &total) > share) key |= bit;
  if (threadIdx.x != 0) return;
  out.sums[blockIdx.x] += static_cast<double>(number_of(key));
  if (blockIdx.x == 0) *out.count += 1;
}

__global__ __launch_bounds__(kUpdateThreads) void update_by_quantiles_kernel(int experts, float ema,
                                                                             QuantileSums in, float* master,
                                                                             float* correction) {
  __shared__ float sums[kUpdateThreads];
  const int e = threadIdx.x;
  const std::int64_t count = *in.count;
  float bias = 0;
  if (e < experts && count > 0) {
    const auto quantile = static_cast<float>(in.sums[e] / static_cast<double>(count));
    bias = (ema == 0.0f ? 0.0f : ema * master[e]) - (1.0f - ema) * quantile;
  }
  sums[e] = bias;
  for (int half = kUpdateThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (e < half) sums[e] += sums[e + half];
  }
  __syncthreads();
  if (e == 0) *in.count = 0;
  if (e >= experts) return;
  in.sums[e] = 0;
  if (count > 0) master[e] = bias - sums[0] / static_cast<float>(experts);
  correction[e] = master[e];
}

void check_quantiles(const GateConfig& c) {
  check_config(c);
  if (c.slots >= c.experts)
    throw ArgumentError("slots is " + std::to_string(c.slots) + ": quantiles want less than experts");
  if (c.groups > 1 && routing_rule(c, true).groups > 1)
    throw ArgumentError("groups is " + std::to_string(c.groups) + ": quantiles want 1");
  if (c.score_function == ScoreFunction::softmax)
    throw ArgumentError("score_function is softmax, which chooses without the correction");
}

}  // namespace

std::size_t score_quantiles_workspace_bytes(const GateConfig& c) {
  return static_cast<std::size_t>(c.tokens) * static_cast<std::size_t>(c.experts) * sizeof(float);
}

void accumulate_score_quantiles(const GateConfig& c, const float* correction, const void* logits,
                                const std::uint8_t* mask, const QuantileSums& sums, void* workspace,
                                cudaStream_t stream) {
  forget_earlier_errors();
  check_quantiles(c);
  if (c.tokens == 0) return;
  auto* rest = static_cast<float*>(workspace);
  const bool fp64 = c.compute_type() == DataType::float64;
  const RestArguments arguments{routing_rule(c, true), c.tokens, logits, correction, rest};
  with_items(token_blocks(c.tokens, c.experts, fp64).items, fp64, [&]<class Acc, int kItems>() {
    const auto blocks = static_cast<unsigned>((c.tokens + kRestWarps - 1) / kRestWarps);
    rest_kernel<Acc, kItems><<<blocks, 32 * kRestWarps, 0, stream>>>(arguments);
    check(cudaGetLastError(), "accumulate_score_quantiles, tokens");
  });
  quantile_kernel<<<static_cast<unsigned>(c.experts), kQuantileThreads, 0, stream>>>(
      c.tokens, c.experts, c.slots, rest, mask, sums);
  check(cudaGetLastError(), "accumulate_score_quantiles, experts");
}

void update_bias_by_quantiles(int experts, double ema, const QuantileSums& sums, float* master,
                              float* correction, cudaStream_t stream) {
  forget_earlier_errors();
  if (experts < 1 || experts > kUpdateThreads)
    throw ArgumentError("experts is " + std::to_string(experts) + ": want 1 to 1024");
  update_by_quantiles_kernel<<<1, kUpdateThreads, 0, stream>>>(experts, static_cast<float>(ema), sums, master,
                                                               correction);
  check(cudaGetLastError(), "update_bias_by_quantiles");
}

}  // namespace moeref::cuda
