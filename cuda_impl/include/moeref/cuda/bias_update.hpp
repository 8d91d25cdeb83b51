// The correction bias and its update (SPEC.md 3.5). Asynchronous, capturable, exact: signs come from
// integers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace moeref::cuda {

/// cumulative [E] += load [E].
void accumulate_expert_load(int experts, const std::int64_t* load, std::int64_t* cumulative,
                            cudaStream_t stream);

/// With load = sum over ranks of loads [ranks, E]: master [E] += factor * sign(mean(load) - load), in fp32,
/// then correction [E] = master. sign(0) = 0. If `centred` the mean of the steps over E is taken from each.
void update_correction_bias(int experts, double factor, const std::int64_t* loads, int ranks, float* master,
                            float* correction, cudaStream_t stream, bool centred = false);

struct BiasUpdateConfig {
  int experts;  // E, 1 to 1024
  bool train_gate;
  double factor;         // gate_bias_update_factor
  bool centred = false;  // centred_bias_update
};

/// Device arrays of one gate, the caller's.
struct BiasUpdateState {
  std::int64_t* cumulative_load;  // [E]
  float* master;                  // [E]
  float* correction;              // [E] e_score_correction_bias, which the gate reads
};

/// The update with its state and its errors. Under data parallelism each rank has one of these and sums the
/// cumulative loads before `update`, in place, or gives it the gathered loads of all ranks. What is counted
/// here is calls: replaying a graph that captured them leaves the errors as they are.
class BiasUpdate {
 public:
  /// Starts master as a copy of the correction bias, and an empty cumulative load. Throws ArgumentError
  /// without train_gate, with a factor that is not above 0, or for experts out of range.
  BiasUpdate(const BiasUpdateConfig& config, const BiasUpdateState& state, cudaStream_t stream);

  void set_training(bool training) { training_ = training; }

  /// Adds a forward's load [E] (this rank's tokens); nothing happens outside training.
  void accumulate(const std::int64_t* load, cudaStream_t stream);

  /// Updates the bias from the cumulative load, or from `gathered` [ranks, E] in its place, and clears it.
  /// Throws ArgumentError outside training and without a forward since the last update.
  void update(cudaStream_t stream, const std::int64_t* gathered = nullptr, int ranks = 1);

 private:
  BiasUpdateConfig config_;
  BiasUpdateState state_;
  bool training_ = true;
  bool has_load_ = false;
};

}  // namespace moeref::cuda
