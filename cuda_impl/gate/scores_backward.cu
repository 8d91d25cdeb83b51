// The gate's backward pass over its logits: from the cotangent of the weights, and the auxiliary loss's
// gradient of S, to the gradient of the logits. One warp per token, lane l holds experts l + 32 j.
//
// Scores are recomputed from the saved logits, values from the saved ids. Floor: logits read and their
// gradient written, 4 T E bytes in bfloat16 (4 us at T = 16384, E = 256 and 4.3 TB/s). The instance for rules
// beyond the documented system's (RoutingRule::beyond) takes 108 registers in place of 64 at E = 256.
#include "cuda_impl/gate/product.hpp"
#include "cuda_impl/gate/route_tokens.hpp"
#include "cuda_impl/gate/score.cuh"
#include "cuda_impl/gate/slot_weights.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/block_memory.cuh"

namespace moeref::cuda {
namespace {

struct Arguments {
  RoutingRule rule;
  std::int64_t tokens, tokens_per_block;
  int warps;
  ScoresBackwardInput in;
  ScoresBackwardOutput out;
};

/// Each plane holds what the ones before it leave of v, rounded.
template <class Acc>
__device__ void store_gradient(const Arguments& p, std::int64_t t, int e, Acc v) {
  const std::int64_t at = t * p.out.stride + e;
  if (!p.out.planes) return store_element(p.out.d_logits, p.rule.compute, at, v);
  for (int plane = 0; plane < kPlanes; ++plane) {
    store_element(p.out.d_logits, DataType::bfloat16, plane * p.tokens * p.out.stride + at, v);
    v -= round_to(v, DataType::bfloat16);
  }
}

/// Gradient of x_i / denominator(sum x): d_i / denominator, and the same for all i through the sum, unless
/// eps divides.
template <bool kBeyond, class Acc, int kItems>
__device__ void normalise_gradient(const RoutingRule& rule, const Acc (&x)[kItems], Acc (&d)[kItems]) {
  Acc sum = 0, inner = 0;
#pragma unroll
  for (int j = 0; j < kItems; ++j) sum += x[j];
  sum = warp_sum(sum);
  const bool through_sum = !kBeyond || !rule.norm_at_most || !(sum < static_cast<Acc>(rule.norm_eps));
  sum = denominator<kBeyond>(rule, sum);
#pragma unroll
  for (int j = 0; j < kItems; ++j) inner += d[j] * (x[j] / sum / sum);
  inner = through_sum ? warp_sum(inner) : Acc(0);
#pragma unroll
  for (int j = 0; j < kItems; ++j) d[j] = d[j] / sum - inner;
}

/// Gradient of this lane's selected values (slots lane and lane + 32) from that of the weights. What is not
/// there has value and gradient 0.
template <bool kBeyond, class Acc>
__device__ void values_gradient(const RoutingRule& rule, const bool (&there)[2], Acc (&v)[2], Acc (&d)[2]) {
  if (rule.softmax_of_selected) {
    const Acc z[2] = {v[0], v[1]};
    warp_softmax(
        z, [&](int i) { return there[i]; }, v);
  }
  const Acc w[2] = {there[0] ? v[0] : Acc(0), there[1] ? v[1] : Acc(0)};
  if (rule.normalise) normalise_gradient<kBeyond>(rule, w, d);
  if (rule.softmax_of_selected) {
    const Acc inner = warp_sum((there[0] ? w[0] * d[0] : Acc(0)) + (there[1] ? w[1] * d[1] : Acc(0)));
    d[0] = w[0] * (d[0] - inner), d[1] = w[1] * (d[1] - inner);
  }
}

/// What each slot adds to the gradient of its expert's factor, from the values at the slots' ids.
template <class Acc>
__device__ void store_scale_terms(const Arguments& p, std::int64_t t, const bool (&there)[2],
                                  const Acc (&v)[2]) {
  const Acc none = p.rule.softmax_of_selected ? Acc(-INFINITY) : Acc(0);
  Acc w[2] = {there[0] ? v[0] : none, there[1] ? v[1] : none};
  weights_of<true>(p.rule, w);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int slot = threadIdx.x % 32 + 32 * i;
    if (slot >= p.rule.slots) continue;
    const std::int64_t at = t * p.rule.slots + slot;
    p.out.scale_terms[at] =
        there[i] ? static_cast<float>(load_element<Acc>(p.in.d_weights, p.in.d_weights_type, at) * w[i])
                 : 0.0f;
  }
}

/// d loss / d logits from that by the mapped ones, in place.
template <class Acc, int kItems>
__device__ void mapped_gradient(const Arguments& p, std::int64_t t, Acc (&d)[kItems]) {
  const RoutingRule& rule = p.rule;
  const Acc scale = static_cast<Acc>(rule.logit_scale), cap = static_cast<Acc>(rule.logit_cap);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = threadIdx.x % 32 + 32 * j;
    Acc slope = scale;
    if (cap > Acc(0) && e < rule.experts) {
      const Acc u = tanh(load_element<Acc>(p.in.logits, rule.compute, t * rule.experts + e) * scale / cap);
      slope *= Acc(1) - u * u;
    }
    d[j] *= slope;
  }
}

/// Adds d z-loss / d logits of a real token.
template <class Acc, int kItems>
__device__ void add_z_gradient(const Arguments& p, std::int64_t t, Acc (&d)[kItems]) {
  const int lane = threadIdx.x % 32, experts = p.rule.experts;
  const auto valid = [&](int j) { return lane + 32 * j < experts; };
  Acc z[kItems];
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    z[j] = valid(j) ? load_element<Acc>(p.in.logits, p.rule.compute, t * experts + lane + 32 * j) : Acc(0);
  const Acc lse = warp_log_sum_exp(z, valid);
  const Acc factor = static_cast<Acc>(2.0 * p.in.z_scale * *p.in.z_inverse_n) * lse;
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    if (valid(j)) d[j] += factor * exp(z[j] - lse);
}

template <class Acc, int kItems, bool kBeyond>
__global__ __launch_bounds__(32 * most_warps(kItems, sizeof(Acc))) void backward_kernel(const Arguments p) {
  wait_for_earlier_kernels();
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const RoutingRule& rule = p.rule;
  BlockMemory<Acc, kItems> memory(shared, p.warps, warp);

  Acc sums[kItems] = {};
  const std::int64_t first = blockIdx.x * p.tokens_per_block,
                     last = min(first + p.tokens_per_block, p.tokens);
  for (std::int64_t t = first + warp; t < last; t += p.warps) {
    const bool real = !p.in.token_mask || p.in.token_mask[t] != 0;
    const bool aux = p.in.aux_gradient && real;
    Acc z[kItems], s[kItems], d[kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int e = lane + 32 * j;
      z[j] = e < rule.experts ? load_element<Acc>(p.in.logits, rule.compute, t * rule.experts + e)
                              : Acc(-INFINITY);
    }
    if constexpr (kBeyond)
      if (rule.maps_logits) map_logits(rule, z);
    const bool needs_scores = !rule.softmax_of_selected || p.in.aux_gradient;
    if (needs_scores) scores_of(rule.formula, rule.experts, z, s);

    // S before normalisation, as values are gathered from it and as the auxiliary loss sees it.
    Acc weighed[kItems];
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int e = lane + 32 * j;
      weighed[j] = Acc(0);
      if (e < rule.experts && needs_scores) {
        weighed[j] = s[j];
        if (rule.weigh_corrected) weighed[j] += static_cast<Acc>(p.in.correction[e]);
      }
      memory.row[e] = rule.softmax_of_selected ? z[j] : weighed[j];
      memory.second_row[e] = Acc(0);
    }
    __syncwarp();
    Acc v[2] = {}, dv[2] = {};
    bool there[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = lane + 32 * i;
      if (slot >= rule.slots) continue;
      const int id = p.in.ids[t * rule.slots + slot];
      memory.ids[slot] = id;
      there[i] = id >= 0 && id < rule.experts;
      if (!there[i]) continue;
      v[i] = memory.row[id];
      dv[i] = load_element<Acc>(p.in.d_weights, p.in.d_weights_type, t * rule.slots + slot) *
              static_cast<Acc>(rule.route_scale);
      if constexpr (kBeyond)
        if (p.in.expert_scale) dv[i] *= load_element<Acc>(p.in.expert_scale, p.in.parameter_type, id);
    }
    if constexpr (kBeyond)
      if (p.out.scale_terms) store_scale_terms(p, t, there, v);
    values_gradient<kBeyond>(rule, there, v, dv);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (lane + 32 * i < rule.slots) memory.slots[lane + 32 * i] = dv[i];
    __syncwarp();
    // The owner of an expert adds its slots' gradients in order: an id may come twice.
    for (int slot = 0; slot < rule.slots; ++slot) {
      const int id = memory.ids[slot];
      if (id >= 0 && id < rule.experts && id % 32 == lane) memory.second_row[id] += memory.slots[slot];
    }
    __syncwarp();

    if (aux) {
      const std::int64_t row = kBeyond ? t / p.in.tokens_per_sequence * rule.experts : 0;
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        const int e = lane + 32 * j;
        d[j] = e < rule.experts ? static_cast<Acc>(p.in.aux_gradient[row + e] * p.in.aux_scale) : Acc(0);
      }
      if (kBeyond ? rule.normalise_scores : rule.normalise) normalise_gradient<kBeyond>(rule, weighed, d);
    } else {
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] = Acc(0);
    }
    if (!rule.softmax_of_selected) {
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] += memory.second_row[lane + 32 * j];
    }
#pragma unroll
    for (int j = 0; j < kItems; ++j)
      if (lane + 32 * j >= rule.experts) d[j] = Acc(0);
    if (aux || !rule.softmax_of_selected) scores_gradient(rule.formula, z, s, d);
    if (rule.softmax_of_selected) {
#pragma unroll
      for (int j = 0; j < kItems; ++j) d[j] += memory.second_row[lane + 32 * j];
    }

    if constexpr (kBeyond) {
      if (rule.maps_logits) mapped_gradient(p, t, d);
      if (p.in.z_inverse_n && real) add_z_gradient(p, t, d);
    }
#pragma unroll
    for (int j = 0; j < kItems; ++j) {
      const int e = lane + 32 * j;
      if (e < rule.experts) {
        const Acc stored = round_to(d[j], rule.compute);
        store_gradient(p, t, e, stored);
        sums[j] += stored;
      } else if (e < p.out.stride) {
        store_gradient(p, t, e, Acc(0));
      }
    }
    __syncwarp();  // the rows are written again
  }
  if (p.out.block_sums)
    memory.store_sums(sums, rule.experts, p.warps,
                      static_cast<Acc*>(p.out.block_sums) + std::int64_t{blockIdx.x} * rule.experts);
}

}  // namespace

void scores_backward(const RoutingRule& rule, const TokenBlocks& blocks, std::int64_t tokens,
                     const ScoresBackwardInput& in, const ScoresBackwardOutput& out, cudaStream_t stream) {
  if (tokens == 0) return;
  const Arguments arguments{rule, tokens, blocks.tokens_per_block, blocks.warps, in, out};
  with_items(blocks.items, rule.compute == DataType::float64, [&]<class Acc, int kItems>() {
    const LaunchShape shape{static_cast<unsigned>(blocks.blocks), static_cast<unsigned>(blocks.warps * 32),
                            static_cast<std::size_t>(blocks.shared_bytes), stream};
    if (rule.beyond)
      launch_overlapped<backward_kernel<Acc, kItems, true>>("scores_backward", shape, arguments);
    else
      launch_overlapped<backward_kernel<Acc, kItems, false>>("scores_backward", shape, arguments);
  });
}

}  // namespace moeref::cuda
