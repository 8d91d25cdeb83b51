// The correction bias follows the sign of (mean load - load).
//
// One block, thread e holds expert e: sums over the ranks, a tree over the experts for the total, then the
// sign of total - load * E, in integers; of centred steps another tree for the sum of signs. Floor: one
// launch.
#include <string>

#include "moeref/cuda/bias_update.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void accumulate_kernel(int experts, const std::int64_t* load, std::int64_t* cumulative) {
  const int e = threadIdx.x;
  if (e < experts) cumulative[e] += load[e];
}

/// The sum of the block's numbers, the same for all threads; `memory` [kThreads]. All threads call it.
template <class T>
__device__ T block_sum(T mine, T* memory) {
  const int e = threadIdx.x;
  memory[e] = mine;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (e < half) memory[e] += memory[e + half];
  }
  __syncthreads();
  return memory[0];
}

__global__ __launch_bounds__(kThreads) void update_kernel(int experts, float step, bool centred,
                                                          const std::int64_t* loads, int ranks, float* master,
                                                          float* correction) {
  __shared__ std::int64_t totals[kThreads];
  __shared__ int signs[kThreads];
  const int e = threadIdx.x;
  std::int64_t load = 0;
  if (e < experts)
    for (int r = 0; r < ranks; ++r) load += loads[std::int64_t{r} * experts + e];
  const std::int64_t difference = block_sum(load, totals) - load * experts;
  const int sign = e >= experts ? 0 : difference > 0 ? 1 : difference < 0 ? -1 : 0;
  // The mean of the steps, of which all have one size.
  const float mean = centred ? step * static_cast<float>(block_sum(sign, signs)) / experts : 0.0f;
  if (e >= experts) return;
  const float after = __fadd_rn(master[e], __fsub_rn(static_cast<float>(sign) * step, mean));
  master[e] = after;
  correction[e] = after;
}

void check_experts(int experts) {
  if (experts < 1 || experts > kThreads)
    throw ArgumentError("experts is " + std::to_string(experts) + ": want 1 to 1024");
}

}  // namespace

void accumulate_expert_load(int experts, const std::int64_t* load, std::int64_t* cumulative,
                            cudaStream_t stream) {
  forget_earlier_errors();
  check_experts(experts);
  accumulate_kernel<<<1, kThreads, 0, stream>>>(experts, load, cumulative);
  check(cudaGetLastError(), "accumulate_expert_load");
}

void update_correction_bias(int experts, double factor, const std::int64_t* loads, int ranks, float* master,
                            float* correction, cudaStream_t stream, bool centred) {
  forget_earlier_errors();
  check_experts(experts);
  if (ranks < 1) throw ArgumentError("ranks is " + std::to_string(ranks) + ": want 1 or more");
  update_kernel<<<1, kThreads, 0, stream>>>(experts, static_cast<float>(factor), centred, loads, ranks,
                                            master, correction);
  check(cudaGetLastError(), "update_correction_bias");
}

BiasUpdate::BiasUpdate(const BiasUpdateConfig& config, const BiasUpdateState& state, cudaStream_t stream)
    : config_(config), state_(state) {
  check_experts(config.experts);
  if (!config.train_gate) throw ArgumentError("train_gate is false: a bias update needs a trained gate");
  if (!(config.factor > 0.0))
    throw ArgumentError("factor is " + std::to_string(config.factor) + ": want a step above 0 to update by");
  check(cudaMemcpyAsync(state.master, state.correction, config.experts * sizeof(float),
                        cudaMemcpyDeviceToDevice, stream),
        "cudaMemcpyAsync");
  check(cudaMemsetAsync(state.cumulative_load, 0, config.experts * sizeof(std::int64_t), stream),
        "cudaMemsetAsync");
}

void BiasUpdate::accumulate(const std::int64_t* load, cudaStream_t stream) {
  if (!training_) return;
  accumulate_expert_load(config_.experts, load, state_.cumulative_load, stream);
  has_load_ = true;
}

void BiasUpdate::update(cudaStream_t stream, const std::int64_t* gathered, int ranks) {
  if (!training_) throw ArgumentError("training is false: the bias update is part of training");
  if (!has_load_) throw ArgumentError("the cumulative load is empty: no forward since the last update");
  update_correction_bias(config_.experts, config_.factor, gathered ? gathered : state_.cumulative_load,
                         gathered ? ranks : 1, state_.master, state_.correction, stream, config_.centred);
  check(cudaMemsetAsync(state_.cumulative_load, 0, config_.experts * sizeof(std::int64_t), stream),
        "cudaMemsetAsync");
  has_load_ = false;
}

}  // namespace moeref::cuda
