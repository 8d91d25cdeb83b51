// The correction bias follows the sign of (mean load - load).
//
// One block, thread e holds expert e: sums over the ranks, a tree over the experts for the total, then the
// sign of total - load * E, in integers. Floor: one launch.
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

__global__ __launch_bounds__(kThreads) void update_kernel(int experts, float step, const std::int64_t* loads,
                                                          int ranks, float* master, float* correction) {
  __shared__ std::int64_t total[kThreads];
  const int e = threadIdx.x;
  std::int64_t load = 0;
  if (e < experts)
    for (int r = 0; r < ranks; ++r) load += loads[std::int64_t{r} * experts + e];
  total[e] = load;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (e < half) total[e] += total[e + half];
  }
  __syncthreads();
  if (e >= experts) return;
  const std::int64_t difference = total[0] - load * experts;
  const float before = master[e];
  const float after = difference > 0   ? __fadd_rn(before, step)
                      : difference < 0 ? __fsub_rn(before, step)
                                       : before;
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
                            float* correction, cudaStream_t stream) {
  forget_earlier_errors();
  check_experts(experts);
  if (ranks < 1) throw ArgumentError("ranks is " + std::to_string(ranks) + ": want 1 or more");
  update_kernel<<<1, kThreads, 0, stream>>>(experts, static_cast<float>(factor), loads, ranks, master,
                                            correction);
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
                         gathered ? ranks : 1, state_.master, state_.correction, stream);
  check(cudaMemsetAsync(state_.cumulative_load, 0, config_.experts * sizeof(std::int64_t), stream),
        "cudaMemsetAsync");
  has_load_ = false;
}

}  // namespace moeref::cuda
