// One block of 1024 threads adds the partial statistics of all token blocks and computes the auxiliary loss.
//
// Thread (p, e) adds blocks p, p + P, ... of expert e, then the P sums are added in order; the loss is a tree
// over the experts. All in fp64 and integers. Floor: latency; 256 blocks of 128 experts are 256 KiB from the
// L2, about 3 us for one multiprocessor.
#include "cuda_impl/aux_loss/statistics.hpp"

#include <string>

#include "cuda_impl/memory/overlapped_launch.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 1024;

struct Memory {
  double sums[kThreads];
  long long counts[kThreads];
  long long tokens;
};

/// The sum over all threads, in thread 0.
__device__ double sum_over_block(double v, Memory& memory) {
  const int e = threadIdx.x;
  memory.sums[e] = v;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (e < half) memory.sums[e] += memory.sums[e + half];
  }
  return memory.sums[0];
}

/// loss = sum_i f_i P_i and gradient = f_i / n; thread e holds expert e's load and sum. All threads call it.
__device__ void store_loss(int experts, int slots, long long tokens, long long load, double sum,
                           Memory& memory, float* loss, double* gradient) {
  const int e = threadIdx.x;
  const double n = tokens > 0 ? static_cast<double>(tokens) : 1.0;
  const double f = static_cast<double>(load) * experts / (static_cast<double>(slots) * n);
  if (e < experts && gradient) gradient[e] = f / n;
  if (!loss) return;
  const double total = sum_over_block(e < experts ? f * (sum / n) : 0.0, memory);
  if (e == 0) *loss = static_cast<float>(total);
}

__device__ void store(const AuxStatistics& to, int experts, long long tokens, long long load, double sum) {
  const int e = threadIdx.x;
  if (e == 0 && to.real_tokens) *to.real_tokens = tokens;
  if (e < experts && to.load) to.load[e] = load;
  if (e < experts && to.score_sum) to.score_sum[e] = sum;
}

/// What thread e < E finds of expert e.
struct Totals {
  long long tokens, count;
  double sum;
};

/// All threads call it, and meet at its end.
template <class Acc>
__device__ __forceinline__ Totals add_blocks(int experts, const BlockStatistics& parts, Memory& memory) {
  const int width = (experts + 31) / 32 * 32, groups = kThreads / width;
  const int e = threadIdx.x % width, p = threadIdx.x / width;
  double sum = 0;
  long long count = 0;
  if (p < groups && e < experts) {
#pragma unroll 8
    for (int b = p; b < parts.blocks; b += groups) {
      count += parts.load[b * experts + e];
      if (parts.sums) sum += static_cast<double>(static_cast<const Acc*>(parts.sums)[b * experts + e]);
    }
  }
  memory.sums[threadIdx.x] = sum;
  memory.counts[threadIdx.x] = count;
  if (threadIdx.x < 32) {
    long long tokens = 0;
    for (int b = threadIdx.x; b < parts.blocks; b += 32) tokens += parts.tokens[b];
    for (int d = 16; d > 0; d /= 2) tokens += __shfl_xor_sync(0xffffffffu, tokens, d);
    if (threadIdx.x == 0) memory.tokens = tokens;
  }
  __syncthreads();
  sum = 0, count = 0;
  if (threadIdx.x < experts)
    for (int q = 0; q < groups; ++q) {
      sum += memory.sums[q * width + threadIdx.x];
      count += memory.counts[q * width + threadIdx.x];
    }
  const long long tokens = memory.tokens;
  __syncthreads();
  return {tokens, count, sum};
}

template <class Acc>
__global__ __launch_bounds__(kThreads) void finish_kernel(int experts, int slots, BlockStatistics parts,
                                                          FinishedStatistics out) {
  wait_for_earlier_kernels();
  __shared__ Memory memory;
  const auto [tokens, count, sum] = add_blocks<Acc>(experts, parts, memory);
  store(out.first, experts, tokens, count, sum);
  store(out.second, experts, tokens, count, sum);
  if (out.loss || out.gradient)
    store_loss(experts, slots, tokens, count, sum, memory, out.loss, out.gradient);
}

__global__ __launch_bounds__(kThreads) void loss_kernel(int experts, int slots, AuxStatistics statistics,
                                                        float* loss, double* gradient) {
  __shared__ Memory memory;
  const int e = threadIdx.x;
  const long long load = e < experts ? statistics.load[e] : 0;
  const double sum = e < experts && loss ? statistics.score_sum[e] : 0.0;
  store_loss(experts, slots, *statistics.real_tokens, load, sum, memory, loss, gradient);
}

/// Block s adds what the blocks of sequence s found.
template <class Acc>
__global__ __launch_bounds__(kThreads) void sequence_kernel(int experts, BlockStatistics parts,
                                                            AuxStatistics out) {
  __shared__ Memory memory;
  const std::int64_t first = std::int64_t{blockIdx.x} * parts.blocks,
                     row = std::int64_t{blockIdx.x} * experts;
  parts.load += first * experts, parts.tokens += first;
  if (parts.sums) parts.sums = static_cast<const Acc*>(parts.sums) + first * experts;
  const Totals all = add_blocks<Acc>(experts, parts, memory);
  store({out.real_tokens + blockIdx.x, out.load + row, out.score_sum + row}, experts, all.tokens, all.count,
        all.sum);
  if (!parts.first_choices) return;
  parts.load = parts.first_choices + first * experts, parts.sums = nullptr;
  const Totals chosen = add_blocks<Acc>(experts, parts, memory);
  if (threadIdx.x < experts) out.first_choices[row + threadIdx.x] = chosen.count;
}

/// The losses of all tokens as one sequence, and what they add to the gradient of each. Thread e holds expert
/// e's count, over which the rule's f runs, and its sum. All threads call it.
__device__ void store_further_losses(int experts, const AuxLossRule& rule, long long tokens, long long count,
                                     double earlier, double sum, Memory& memory, double* gradient,
                                     const FurtherLosses& out) {
  const int e = threadIdx.x;
  const double n = tokens > 0 ? static_cast<double>(tokens) : 1.0;
  const auto f = [&](long long counted, double of_tokens) {
    return static_cast<double>(counted) * experts / (rule.slots * of_tokens);
  };
  double batch = 0, global = 0;
  if (e < experts) {
    batch = f(count, n);
    if (rule.global_weight > 0.0) global = f(count + rule.accumulated[e], n + earlier);
    const double added = (rule.batch_weight * batch + rule.global_weight * global) / n;
    if (gradient)
      for (int s = 0; s < rule.sequences; ++s) gradient[std::int64_t{s} * experts + e] += added;
  }
  const auto store_sum = [&](double per_expert, float* to) {
    if (!to) return;
    __syncthreads();
    const double total = sum_over_block(e < experts ? per_expert * (sum / n) : 0.0, memory);
    if (e == 0) *to = static_cast<float>(total);
  };
  store_sum(batch, rule.batch_weight > 0.0 ? out.batch : nullptr);
  store_sum(global, rule.global_weight > 0.0 ? out.global : nullptr);
}

/// The losses under any rule from statistics of each sequence, their gradient, and the sums over sequences.
/// Thread e holds expert e.
__global__ __launch_bounds__(kThreads) void sequence_loss_kernel(int experts, AuxLossRule rule,
                                                                 AuxStatistics in, FinishedStatistics out,
                                                                 FurtherLosses further) {
  __shared__ Memory memory;
  const int e = threadIdx.x;
  double earlier = 0;  // tokens of earlier micro-batches
  if (rule.accumulated) {
    for (int i = 0; i < experts; ++i) earlier += static_cast<double>(rule.accumulated[i]);
    earlier /= rule.counted;
  }
  long long tokens = 0, load = 0, first_choices = 0;
  double sum = 0, loss = 0;
  for (int s = 0; s < rule.sequences; ++s) {
    const std::int64_t at = std::int64_t{s} * experts + e, real = in.real_tokens[s];
    const double n = real > 0 ? static_cast<double>(real) : 1.0;
    tokens += real;
    if (e >= experts) continue;
    load += in.load[at];
    if (rule.first_choice) first_choices += in.first_choices[at];
    const std::int64_t counted = (rule.first_choice ? in.first_choices[at] : in.load[at]) +
                                 (rule.accumulates ? rule.accumulated[e] : 0);
    const double all = n + (rule.accumulates ? earlier : 0.0),
                 f = static_cast<double>(counted) * experts / (rule.slots * all);
    if (out.gradient) out.gradient[at] = rule.loss_weight * (f / (n * rule.sequences));
    if (!in.score_sum) continue;
    sum += in.score_sum[at];
    loss += f * (in.score_sum[at] / n);
  }
  for (const AuxStatistics& to : {out.first, out.second}) {
    store(to, experts, tokens, load, sum);
    if (e < experts && to.first_choices) to.first_choices[e] = first_choices;
  }
  if (out.loss) {
    loss = sum_over_block(loss, memory);
    if (e == 0) *out.loss = static_cast<float>(loss / rule.sequences);
  }
  if (rule.batch_weight > 0.0 || rule.global_weight > 0.0)
    store_further_losses(experts, rule, tokens, rule.first_choice ? first_choices : load, earlier, sum,
                         memory, out.gradient, further);
}

}  // namespace

void finish_statistics(int experts, const AuxLossRule& rule, const BlockStatistics& parts,
                       const FinishedStatistics& out, const SequenceStatistics& sequences,
                       cudaStream_t stream, const FurtherLosses& further) {
  if (!rule.documented()) {
    const auto count = static_cast<unsigned>(rule.sequences);
    if (parts.fp64)
      sequence_kernel<double><<<count, kThreads, 0, stream>>>(experts, parts, sequences.all);
    else
      sequence_kernel<float><<<count, kThreads, 0, stream>>>(experts, parts, sequences.all);
    check(cudaGetLastError(), "finish_statistics, sequences");
    sequence_loss_kernel<<<1, kThreads, 0, stream>>>(experts, rule, sequences.all, out, further);
    check(cudaGetLastError(), "finish_statistics, their loss");
    return;
  }
  const LaunchShape shape{1, kThreads, 0, stream};
  if (parts.fp64)
    launch_overlapped<finish_kernel<double>>("finish_statistics", shape, experts, rule.slots, parts, out);
  else
    launch_overlapped<finish_kernel<float>>("finish_statistics", shape, experts, rule.slots, parts, out);
}

void aux_loss_from_statistics(int experts, const AuxLossRule& rule, const AuxStatistics& statistics,
                              float* loss, double* gradient, cudaStream_t stream,
                              const FurtherLosses& further) {
  forget_earlier_errors();
  if (experts < 1 || experts > kThreads)
    throw ArgumentError("experts is " + std::to_string(experts) + ": want 1 to 1024");
  if (rule.slots < 1) throw ArgumentError("slots is " + std::to_string(rule.slots) + ": want 1 or more");
  if (rule.sequences != 1)
    throw ArgumentError("sequences is " + std::to_string(rule.sequences) +
                        ": want 1, that of the statistics");
  const bool wants_sum = loss || further.batch || further.global;
  if (!statistics.real_tokens || !statistics.load || (wants_sum && !statistics.score_sum))
    throw ArgumentError("statistics are not complete: want real_tokens, load and score_sum");
  if (rule.first_choice && !statistics.first_choices)
    throw ArgumentError("statistics are not complete: want first_choices, which the rule counts");
  if (rule.documented())
    loss_kernel<<<1, kThreads, 0, stream>>>(experts, rule.slots, statistics, loss, gradient);
  else
    sequence_loss_kernel<<<1, kThreads, 0, stream>>>(experts, rule, statistics,
                                                     FinishedStatistics{{}, {}, loss, gradient}, further);
  check(cudaGetLastError(), "aux_loss_from_statistics");
}

}  // namespace moeref::cuda
