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

/// loss = sum_i f_i P_i and gradient = f_i / n; thread e holds expert e's load and sum. All threads call it.
__device__ void store_loss(int experts, int slots, long long tokens, long long load, double sum,
                           Memory& memory, float* loss, double* gradient) {
  const int e = threadIdx.x;
  const double n = tokens > 0 ? static_cast<double>(tokens) : 1.0;
  const double f = static_cast<double>(load) * experts / (static_cast<double>(slots) * n);
  if (e < experts && gradient) gradient[e] = f / n;
  if (!loss) return;
  memory.sums[e] = e < experts ? f * (sum / n) : 0.0;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (e < half) memory.sums[e] += memory.sums[e + half];
  }
  if (e == 0) *loss = static_cast<float>(memory.sums[0]);
}

__device__ void store(const AuxStatistics& to, int experts, long long tokens, long long load, double sum) {
  const int e = threadIdx.x;
  if (e == 0 && to.real_tokens) *to.real_tokens = tokens;
  if (e < experts && to.load) to.load[e] = load;
  if (e < experts && to.score_sum) to.score_sum[e] = sum;
}

template <class Acc>
__global__ __launch_bounds__(kThreads) void finish_kernel(int experts, int slots, BlockStatistics parts,
                                                          FinishedStatistics out) {
  wait_for_earlier_kernels();
  __shared__ Memory memory;
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

}  // namespace

void finish_statistics(int experts, int slots, const BlockStatistics& parts, const FinishedStatistics& out,
                       cudaStream_t stream) {
  const LaunchShape shape{1, kThreads, 0, stream};
  if (parts.fp64)
    launch_overlapped<finish_kernel<double>>("finish_statistics", shape, experts, slots, parts, out);
  else
    launch_overlapped<finish_kernel<float>>("finish_statistics", shape, experts, slots, parts, out);
}

void aux_loss_from_statistics(int experts, int slots, const AuxStatistics& statistics, float* loss,
                              double* gradient, cudaStream_t stream) {
  forget_earlier_errors();
  if (experts < 1 || experts > kThreads)
    throw ArgumentError("experts is " + std::to_string(experts) + ": want 1 to 1024");
  if (slots < 1) throw ArgumentError("slots is " + std::to_string(slots) + ": want 1 or more");
  if (!statistics.real_tokens || !statistics.load || (loss && !statistics.score_sum))
    throw ArgumentError("statistics are not complete: want real_tokens, load and score_sum");
  loss_kernel<<<1, kThreads, 0, stream>>>(experts, slots, statistics, loss, gradient);
  check(cudaGetLastError(), "aux_loss_from_statistics");
}

}  // namespace moeref::cuda
