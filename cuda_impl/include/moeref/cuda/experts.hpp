// Routed experts (SPEC.md 5) in bfloat16 with fp32 accumulation, forward and backward.
//
// No call synchronises or looks at token counts on the host; all may be captured in a CUDA graph and replayed
// with other contents of the same buffers. Results are the same bits on every run. Matrices are row-major.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/activation.hpp"

namespace moeref::cuda {

struct ExpertsConfig {
  std::int64_t tokens;  // T, at least 0; tokens * slots < 2^31
  int dim;              // D, a multiple of 8
  int inter_dim;        // I, a multiple of 8
  int experts;          // E, 1 to 1024
  int slots;            // k, at least 1
  Activation activation = Activation::swiglu;
  ActivationParameters activation_parameters = {};
  bool apply_router_weight_after_down = false;

  /// Width of H: 2I for gated activations, I for relu2.
  int up_width() const { return is_gated(activation) ? 2 * inter_dim : inter_dim; }
};

struct ExpertsWeights {
  const __nv_bfloat16* gate_and_up;       // [E, D, up_width]
  const __nv_bfloat16* down;              // [E, I, D]
  const __nv_bfloat16* gate_and_up_bias;  // [E, up_width] or null
  const __nv_bfloat16* down_bias;         // [E, D] or null
};

struct ExpertsInput {
  const __nv_bfloat16* x;          // [T, D]
  const int* ids;                  // [T, k]; outside [0, E): the slot contributes nothing
  const float* weights;            // [T, k]
  const std::uint8_t* token_mask;  // [T], 1 = real token; or null
};

struct ExpertsGradients {
  __nv_bfloat16* x;                 // [T, D]
  float* weights;                   // [T, k], 0 for slots without a row
  __nv_bfloat16* gate_and_up;       // [E, D, up_width], 0 for experts without tokens
  __nv_bfloat16* down;              // [E, I, D]
  __nv_bfloat16* gate_and_up_bias;  // [E, up_width] or null
  __nv_bfloat16* down_bias;         // [E, D] or null
};

/// Bytes that forward saves for backward: H [T k, up_width] and the permutation; X is the caller's.
std::size_t saved_bytes(const ExpertsConfig& config);
std::size_t forward_workspace_bytes(const ExpertsConfig& config);
std::size_t backward_workspace_bytes(const ExpertsConfig& config);

/// Output [T, D]: every element is written, 0 for tokens without a row. `saved` (saved_bytes, 256-byte
/// aligned) may be null when no backward follows; then the permutation lives in the workspace. Pointers to
/// matrices must be 16-byte aligned. Throws ArgumentError for a field out of range, CudaError when a launch
/// fails or the device is not of compute capability 9.0.
void experts_forward(const ExpertsConfig& config, const ExpertsWeights& parameters, const ExpertsInput& input,
                     __nv_bfloat16* output, void* saved, void* workspace, cudaStream_t stream);

/// Gradients for the cotangent `d_output` [T, D], after experts_forward with the same config, inputs and
/// `saved`.
void experts_backward(const ExpertsConfig& config, const ExpertsWeights& parameters,
                      const ExpertsInput& input, const __nv_bfloat16* d_output, const void* saved,
                      const ExpertsGradients& gradients, void* workspace, cudaStream_t stream);

}  // namespace moeref::cuda
