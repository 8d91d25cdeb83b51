// The activation between the MLP's products.
#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/mlp.hpp"

namespace moeref::cuda {

/// a = row_scale * act(gate, up). gate [T, I] is read if is_gated(), up [T, I], row_scale [T] or null.
void mlp_activation(const MLPConfig& config, const void* gate, const void* up, const float* row_scale,
                    void* a, cudaStream_t stream);

/// With d = d_a [T, I], the cotangent of the activation before row_scale enters: d_gate, d_up [T, I] =
/// row_scale * d * act', a = row_scale * act, d_row_scale [T] = sum_i d_ti act_ti (null: not wanted). `a` may
/// be `d_a` itself: each element is read before it is written.
void mlp_activation_gradient(const MLPConfig& config, const void* gate, const void* up,
                             const float* row_scale, const void* d_a, void* d_gate, void* d_up, void* a,
                             float* d_row_scale, cudaStream_t stream);

}  // namespace moeref::cuda
