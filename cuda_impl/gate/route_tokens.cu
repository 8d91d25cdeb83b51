// The gate's forward pass over its logits: one warp per token, lane l holds experts l + 32 j.
//
// Reads the partial logits once, adds them in order, and in registers goes on to scores, groups
// (SPEC.md 3.1), selection (k rounds of a warp maximum, the lowest id among equals), weights and their
// normalisation. Load is counted in shared integers; sums of scores are kept a lane and added over warps and
// blocks in a fixed order. Floor: the logits, 4 T E bytes from the L2 (8 MiB, about 2 us at T = 16384, E =
// 128); the k rounds of the selection, about 40 cycles each, dominate. The instance for rules beyond the
// documented system's (RoutingRule::beyond) has a branch for each, uniform over the launch, and at most 14
// registers a thread more.
#include "cuda_impl/gate/load_logits.cuh"
#include "cuda_impl/gate/route_tokens.hpp"
#include "cuda_impl/gate/score.cuh"
#include "cuda_impl/gate/slot_weights.cuh"
#include "cuda_impl/gate/top_k.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/block_memory.cuh"

namespace moeref::cuda {
namespace {

struct Arguments {
  RoutingRule rule;
  std::int64_t tokens, tokens_per_block;
  int warps;
  RouteInput in;
  RouteOutput out;
  std::int64_t tokens_per_sequence;
  int blocks_per_sequence;
};

/// Keys of the balanced choice.
template <class Acc, int kItems>
__device__ void balanced_keys(const Arguments& p, std::int64_t t, const Acc (&z)[kItems],
                              OrderKey<Acc> (&keys)[kItems]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = lane + 32 * j;
    keys[j] = e < p.rule.experts
                  ? order_key(static_cast<Acc>(p.in.expert_factors[e] * exp(static_cast<float>(z[j])) *
                                               p.in.token_factors[t]))
                  : 0;
  }
}

/// Keys of softmax's scores in the order of exp(z - max) in fp64: z itself while that does not underflow, so
/// that neither the division nor the short range of fp32 makes ties.
template <class Acc, int kItems>
__device__ void softmax_keys(int experts, const Acc (&z)[kItems], OrderKey<Acc> (&keys)[kItems]) {
  const int lane = threadIdx.x % 32;
  Acc largest = -INFINITY;
  bool nan = false;
#pragma unroll
  for (int j = 0; j < kItems; ++j) largest = fmax(largest, z[j]), nan = nan || z[j] != z[j];
  largest = warp_largest(largest);
  nan = __any_sync(kAllLanes, nan);
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const Acc below = z[j] - largest;
    const Acc choice = nan || below != below ? Acc(NAN) : below < Acc(-745.13) ? Acc(-INFINITY) : z[j];
    keys[j] = lane + 32 * j < experts ? order_key(choice) : 0;
  }
}

/// The sum of the `count` largest of q [size], the largest first and the first among equals.
template <class Acc>
__device__ Acc sum_of_largest(const Acc* q, int size, int count) {
  Acc sum = 0;
  OrderKey<Acc> last = ~OrderKey<Acc>{0};
  int last_at = -1;
  for (int s = 0; s < count; ++s) {
    OrderKey<Acc> best = 0;
    int at = 0;
    for (int i = 0; i < size; ++i) {
      const OrderKey<Acc> key = order_key(q[i]);
      if ((key < last || (key == last && i > last_at)) && key > best) best = key, at = i;
    }
    sum += q[at];
    last = best, last_at = at;
  }
  return sum;
}

/// Discards the groups that are not among the best: `row` [E] holds q in shared memory, `marks` room for a
/// key a group.
template <bool kBeyond, class Acc, int kItems>
__device__ void discard_groups(const RoutingRule& rule, const Acc* row, void* marks,
                               OrderKey<Acc> (&keys)[kItems]) {
  using Key = OrderKey<Acc>;
  const int lane = threadIdx.x % 32, size = rule.experts / rule.groups;
  Key* group_keys = static_cast<Key*>(marks);
  for (int g = lane; g < rule.groups; g += 32) {
    // Each lane starts elsewhere in its group: groups of 32 would otherwise meet in one bank.
    Acc best = 0, second = 0;
    Key best_key = 0, second_key = 0;
    int at = g % size;
    for (int i = 0; i < size; ++i) {
      const Acc q = row[g * size + at];
      const Key key = order_key(q);
      if (key > best_key)
        second = best, second_key = best_key, best = q, best_key = key;
      else if (key > second_key)
        second = q, second_key = key;
      at = at + 1 == size ? 0 : at + 1;
    }
    Acc score = rule.group_top2 ? best + second : best;
    if constexpr (kBeyond)
      if (rule.group_sum > 2) score = sum_of_largest(row + g * size, size, rule.group_sum);
    group_keys[g] = order_key(score);
  }
  __syncwarp();
  // Rank by key, the lower group first among equals. Two rounds of barriers: all ranks are known before any
  // mark.
  unsigned kept = 0;  // bit i: group lane + 32 i
  for (int g = lane, i = 0; g < rule.groups; g += 32, ++i) {
    const Key mine = group_keys[g];
    int above = 0;
    for (int h = 0; h < rule.groups; ++h) above += group_keys[h] > mine || (group_keys[h] == mine && h < g);
    kept |= (above < rule.limited_groups ? 1u : 0u) << i;
  }
  __syncwarp();
  for (int g = lane, i = 0; g < rule.groups; g += 32, ++i) group_keys[g] = kept >> i & 1;
  __syncwarp();
  const Key discarded = order_key(rule.discard_to_zero ? Acc(0) : Acc(-INFINITY));
#pragma unroll
  for (int j = 0; j < kItems; ++j) {
    const int e = lane + 32 * j;
    if (e < rule.experts && !group_keys[e / size]) keys[j] = discarded;
  }
}

/// Experts that every token has are not chosen.
template <class Key, int kItems>
__device__ void leave_out_the_last(const RoutingRule& rule, Key (&keys)[kItems]) {
#pragma unroll
  for (int j = 0; j < kItems; ++j)
    if (static_cast<int>(threadIdx.x % 32) + 32 * j >= rule.experts - rule.always_selected) keys[j] = 0;
}

/// The factors of the experts that slots have.
template <class Acc>
__device__ void scale_by_expert(const RouteInput& in, const int* ids, const bool (&there)[2], Acc (&w)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (there[i])
      w[i] *= load_element<Acc>(in.expert_scale, in.parameter_type, ids[threadIdx.x % 32 + 32 * i]);
}

/// The sum over the block's warps, first warp first. All threads call it.
template <class Acc, int kItems>
__device__ void store_squares(const Arguments& p, BlockMemory<Acc, kItems>& memory, Acc squares) {
  __syncthreads();
  if (threadIdx.x % 32 == 0) memory.row[0] = squares;
  __syncthreads();
  if (threadIdx.x > 0) return;
  double sum = 0;
  for (int w = 0; w < p.warps; ++w) sum += memory.rows[w * 2 * memory.kWidth];
  p.out.block_squares[blockIdx.x] = sum;
}

template <class Acc, int kItems, bool kBeyond>
__global__ __launch_bounds__(32 * most_warps(kItems, sizeof(Acc)),
                             blocks_per_multiprocessor(kItems,
                                                       sizeof(Acc))) void route_kernel(const Arguments p) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  extern __shared__ __align__(16) unsigned char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const RoutingRule& rule = p.rule;
  BlockMemory<Acc, kItems> memory(shared, p.warps, warp);
  for (int e = threadIdx.x; e < rule.experts; e += blockDim.x) memory.histogram[e] = 0;
  int* first_choices = nullptr;
  if constexpr (kBeyond)
    if (p.out.block_first_choices) {
      first_choices = p.out.block_first_choices + std::int64_t{blockIdx.x} * rule.experts;
      for (int e = threadIdx.x; e < rule.experts; e += blockDim.x) first_choices[e] = 0;
    }
  __shared__ int real_tokens;
  if (threadIdx.x == 0) real_tokens = 0;
  __syncthreads();

  Acc sums[kItems] = {}, squares = 0;
  int real_here = 0;
  std::int64_t first = blockIdx.x * p.tokens_per_block, last = min(first + p.tokens_per_block, p.tokens);
  if constexpr (kBeyond) {
    const TokenRange own = tokens_of_block(p.tokens_per_sequence, p.blocks_per_sequence, p.tokens_per_block);
    first = own.first, last = own.last;
  }
  for (std::int64_t t = first + warp; t < last; t += p.warps) {
    const bool real = !p.in.token_mask || p.in.token_mask[t] != 0;
    real_here += real;
    Acc z[kItems], s[kItems];
    load_logits(p, t, z);
    if constexpr (kBeyond) {
      if (p.out.block_squares && real) {
        const Acc lse = warp_log_sum_exp(z, [&](int j) { return lane + 32 * j < rule.experts; });
        squares += lse * lse;
      }
      if (rule.maps_logits) map_logits(rule, z);
    }
    const bool needs_scores = !rule.softmax_of_selected || p.out.block_sums;
    if (needs_scores) scores_of(rule.formula, rule.experts, z, s);

    // q, its keys, and in shared memory what the weights are gathered from.
    OrderKey<Acc> keys[kItems];
    if (kBeyond && p.in.token_factors) {
      balanced_keys(p, t, z, keys);
    } else if (rule.softmax_before_topk) {
      softmax_keys(rule.experts, z, keys);
    } else {
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        const int e = lane + 32 * j;
        Acc q = rule.softmax_of_selected || (kBeyond && rule.selects_logits) ? z[j] : s[j];
        if (rule.corrected && e < rule.experts) q += static_cast<Acc>(p.in.correction[e]);
        keys[j] = e < rule.experts ? order_key(q) : 0;
        memory.row[e] = q;
        if (rule.weigh_corrected) s[j] = q;
      }
    }
    if (!p.in.replay_ids && rule.groups > 1) {
      __syncwarp();
      discard_groups<kBeyond>(rule, memory.row, memory.second_row, keys);
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kItems; ++j) memory.row[lane + 32 * j] = rule.softmax_of_selected ? z[j] : s[j];
    if (p.in.replay_ids) {
      for (int i = lane; i < rule.slots; i += 32) memory.ids[i] = p.in.replay_ids[t * rule.slots + i];
      __syncwarp();
    } else {
      int chosen = rule.slots;
      if constexpr (kBeyond)
        if (rule.always_selected > 0) chosen -= rule.always_selected, leave_out_the_last(rule, keys);
      warp_top_k(keys, chosen, memory.ids);
      if constexpr (kBeyond) {
        for (int i = chosen + lane; i < rule.slots; i += 32) memory.ids[i] = rule.experts - rule.slots + i;
        __syncwarp();
      }
    }

    Acc w[2] = {};
    bool there[2] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = lane + 32 * i;
      if (slot >= rule.slots) continue;
      const int id = memory.ids[slot];
      there[i] = id >= 0 && id < rule.experts;
      w[i] = there[i] ? memory.row[id] : rule.softmax_of_selected ? Acc(-INFINITY) : Acc(0);
      bool counts = real && there[i];
      if (p.in.replay_ids)
        for (int earlier = 0; earlier < slot; ++earlier) counts = counts && memory.ids[earlier] != id;
      if (counts) atomicAdd(&memory.histogram[id], 1);
      if (kBeyond && first_choices && counts && slot == 0) atomicAdd(&first_choices[id], 1);
    }
    unscaled_weights_of<kBeyond>(rule, w);
    const Acc unscaled[2] = {w[0], w[1]};
    w[0] *= static_cast<Acc>(rule.route_scale), w[1] *= static_cast<Acc>(rule.route_scale);
    if constexpr (kBeyond)
      if (p.in.expert_scale) scale_by_expert(p.in, memory.ids, there, w);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = lane + 32 * i;
      if (slot >= rule.slots) continue;
      const std::int64_t at = t * rule.slots + slot;
      Acc stored = there[i] ? round_to(round_to(w[i], rule.scores), p.out.weights_type) : Acc(0),
          order = stored;
      if constexpr (kBeyond)
        if (rule.raw_weights && there[i]) stored = unscaled[i], order = w[i];
      p.out.ids[at] = memory.ids[slot];
      if (p.out.weights) store_element(p.out.weights, p.out.weights_type, at, stored);
      if (p.out.weights_float) p.out.weights_float[at] = static_cast<float>(order);
    }

    if (p.out.block_sums) {
      Acc total = 1;
      if (kBeyond ? rule.normalise_scores : rule.normalise) {
        Acc sum = 0;
#pragma unroll
        for (int j = 0; j < kItems; ++j) sum += lane + 32 * j < rule.experts ? s[j] : Acc(0);
        total = denominator<kBeyond>(rule, warp_sum(sum));
      }
      // The mask multiplies, as in the documented system: padding whose score is NaN is seen in the loss.
#pragma unroll
      for (int j = 0; j < kItems; ++j)
        if (lane + 32 * j < rule.experts)
          sums[j] += round_to(s[j] / total, rule.scores) * (real ? Acc(1) : Acc(0));
    }
    __syncwarp();  // the rows are written again
  }

  if (lane == 0 && real_here > 0) atomicAdd(&real_tokens, real_here);
  __syncthreads();
  for (int e = threadIdx.x; e < rule.experts; e += blockDim.x)
    p.out.block_load[std::int64_t{blockIdx.x} * rule.experts + e] = memory.histogram[e];
  if (threadIdx.x == 0) p.out.block_tokens[blockIdx.x] = real_tokens;
  if (p.out.block_sums)
    memory.store_sums(sums, rule.experts, p.warps,
                      static_cast<Acc*>(p.out.block_sums) + std::int64_t{blockIdx.x} * rule.experts);
  if constexpr (kBeyond)
    if (p.out.block_squares) store_squares(p, memory, squares);
}

}  // namespace

void route_tokens(const RoutingRule& rule, const TokenBlocks& blocks, std::int64_t tokens,
                  const RouteInput& in, const RouteOutput& out, cudaStream_t stream) {
  if (tokens == 0) return;
  const Arguments arguments{rule, tokens, blocks.tokens_per_block,    blocks.warps,
                            in,   out,    blocks.tokens_per_sequence, blocks.blocks_per_sequence};
  with_items(blocks.items, rule.compute == DataType::float64, [&]<class Acc, int kItems>() {
    const LaunchShape shape{static_cast<unsigned>(blocks.blocks), static_cast<unsigned>(blocks.warps * 32),
                            static_cast<std::size_t>(blocks.shared_bytes), stream};
    if (rule.beyond)
      launch_overlapped<route_kernel<Acc, kItems, true>>("route_tokens", shape, arguments);
    else
      launch_overlapped<route_kernel<Acc, kItems, false>>("route_tokens", shape, arguments);
  });
}

}  // namespace moeref::cuda
