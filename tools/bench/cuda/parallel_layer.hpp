// The layer spread over ranks, and on one device with the same tokens and all experts.
#pragma once

#include <cstdint>

#include "moeref/cuda/moe.hpp"
#include "tools/bench/cuda/parallel_clock.hpp"

namespace moeref::cuda::bench {

struct LayerTimes {
  double forward_ms, both_ms;
};

/// Of bf16 swiglu experts `own` and `tokens` rows [T, D] of one rank: random parameters and cotangents, and
/// room for what the passes give.
struct ExpertArrays {
  ExpertArrays(const ExpertsConfig& own, std::int64_t tokens);
  ExpertsWeights weights() const { return {gate_up.data, down.data, nullptr, nullptr}; }
  NormalBuffer gate_up, down, dy;
  DeviceBuffer<std::uint16_t> y, dx, d_gate_up, d_down;
};

/// The random weight [E, D] of the layer's gate, always the same.
NormalBuffer gate_weight(const LayerConfig& config);

/// bf16 swiglu experts with a softmax gate of its own random weights, or a fake balanced one as the config
/// says. `group` null: alone. Collective.
LayerTimes time_layer(const LayerConfig& config, const void* x, ParallelClock& clock, Group* group);

}  // namespace moeref::cuda::bench
