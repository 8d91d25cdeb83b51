// The gradient of per_expert_scale (SPEC.md 10).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

/// d_scale [E] in parameter_type: the sum of `terms` [T, k] over the slots whose `ids` [T, k] are the
/// expert's, in a fixed order, in fp32.
void expert_scale_gradient(const GateConfig& config, const int* ids, const float* terms, void* d_scale,
                           cudaStream_t stream);

}  // namespace moeref::cuda
