// Load-balance metrics: one block a layer, then one block for each aggregate.
//
// Order statistics need no sort: the bits of non-negative doubles order as integers, so the r-th smallest is
// found bit by bit, counting what lies below: 63 passes over the values, each block for itself. Floor:
// latency, about 50 us for 60 layers of 256 experts; it is a log line, not a step of training.
#include <string>

#include "moeref/cuda/error.hpp"
#include "moeref/cuda/metrics.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 256;

/// Sum over the block in a fixed order; all threads get it.
template <class T>
__device__ T block_sum(T v) {
  __shared__ T parts[kThreads];
  __syncthreads();
  parts[threadIdx.x] = v;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  __syncthreads();
  return parts[0];
}

__global__ __launch_bounds__(kThreads) void layer_kernel(int experts, const std::int64_t* loads,
                                                         MetricsOutput out) {
  const std::int64_t layer = blockIdx.x;
  const std::int64_t* load = loads + layer * experts;
  long long total_count = 0, dead = 0;
  for (int e = threadIdx.x; e < experts; e += kThreads) total_count += load[e], dead += load[e] == 0;
  const double total = static_cast<double>(block_sum(total_count)), average = total / experts;
  dead = block_sum(dead);
  double squares = 0, entropy = 0;
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    const double l = static_cast<double>(load[e]), share = l / total;
    squares += (l - average) * (l - average);
    if (l > 0) entropy -= share * log(share);
    out.utilization[layer * experts + e] = total > 0 ? l / average : 0.0;
  }
  squares = block_sum(squares);
  entropy = block_sum(entropy);
  if (threadIdx.x != 0) return;
  out.cv[layer] = total > 0 && experts > 1 ? sqrt(squares / (experts - 1)) / average : 0.0;
  out.dead[layer] = static_cast<double>(dead) / experts;
  out.diversity[layer] = total > 0 ? exp(entropy) / experts : 0.0;
}

__device__ double mean(const double* v, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) sum += v[i];
  return block_sum(sum) / static_cast<double>(n);
}

/// The number that comes `rank`-th (from 0) in ascending order: the largest bound with at most `rank` numbers
/// below.
__device__ double ranked(const double* v, std::int64_t n, std::int64_t rank) {
  unsigned long long bound = 0;
  for (int bit = 62; bit >= 0; --bit) {
    const unsigned long long tried = bound | 1ull << bit;
    long long below = 0;
    for (std::int64_t i = threadIdx.x; i < n; i += kThreads)
      below += static_cast<unsigned long long>(__double_as_longlong(v[i])) < tried;
    if (block_sum(below) <= rank) bound = tried;
  }
  return __longlong_as_double(static_cast<long long>(bound));
}
__device__ double median(const double* v, std::int64_t n) {
  const double upper = ranked(v, n, n / 2);
  return n % 2 ? upper : (ranked(v, n, n / 2 - 1) + upper) / 2.0;
}

__global__ __launch_bounds__(kThreads) void aggregate_kernel(std::int64_t layers, int experts,
                                                             MetricsOutput out) {
  const std::int64_t n = layers * experts;
  double value = 0;
  switch (static_cast<Aggregate>(blockIdx.x)) {
    case Aggregate::cv_mean:
      value = mean(out.cv, layers);
      break;
    case Aggregate::cv_median:
      value = median(out.cv, layers);
      break;
    case Aggregate::cv_min:
      value = ranked(out.cv, layers, 0);
      break;
    case Aggregate::cv_max:
      value = ranked(out.cv, layers, layers - 1);
      break;
    case Aggregate::expert_utilization_p25:
      value = ranked(out.utilization, n, n >= 4 ? n / 4 : 0);
      break;
    case Aggregate::expert_utilization_median:
      value = median(out.utilization, n);
      break;
    case Aggregate::expert_utilization_p75:
      value = ranked(out.utilization, n, n >= 4 ? 3 * n / 4 : n - 1);
      break;
    case Aggregate::expert_utilization_min:
      value = ranked(out.utilization, n, 0);
      break;
    case Aggregate::expert_utilization_max:
      value = ranked(out.utilization, n, n - 1);
      break;
    case Aggregate::dead_expert_frac_mean:
      value = mean(out.dead, layers);
      break;
    case Aggregate::expert_diversity_mean:
      value = mean(out.diversity, layers);
      break;
    case Aggregate::expert_diversity_min:
      value = ranked(out.diversity, layers, 0);
      break;
  }
  if (threadIdx.x == 0) out.aggregates[blockIdx.x] = value;
}

}  // namespace

void load_balance_metrics(std::int64_t layers, int experts, const std::int64_t* load,
                          const MetricsOutput& out, cudaStream_t stream) {
  forget_earlier_errors();
  if (experts < 1) throw ArgumentError("experts is " + std::to_string(experts) + ": want 1 or more");
  if (layers < 0 || layers > 0x7fffffff)
    throw ArgumentError("layers is " + std::to_string(layers) + ": want 0 to 2^31 - 1");
  if (layers == 0) return;
  layer_kernel<<<static_cast<unsigned>(layers), kThreads, 0, stream>>>(experts, load, out);
  aggregate_kernel<<<kAggregates, kThreads, 0, stream>>>(layers, experts, out);
  check(cudaGetLastError(), "load_balance_metrics");
}

}  // namespace moeref::cuda
