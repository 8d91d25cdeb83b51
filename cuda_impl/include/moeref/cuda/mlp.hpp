// The dense MLP (SPEC.md 2), which is also the shared experts: down(act(gate(x), up(x))), forward and
// backward.
//
// Products by cuBLAS, activations between them. No call synchronises; all may be captured in a CUDA graph;
// the same bits on every run. Rounding to the data type happens where a matrix is stored: gate(x), up(x), the
// activation, its gradients, and the results.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/activation.hpp"
#include "moeref/cuda/blas.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct MLPConfig {
  std::int64_t tokens;                         // T, at least 0
  int dim;                                     // D, at least 1
  int inter_dim;                               // I, at least 1
  Activation activation = Activation::swiglu;  // is_of_mlp()
  float swiglu_limit = 0.0f;                   // of swiglu alone
  DataType dtype = DataType::bfloat16;         // of all matrices
  float situ_beta = 4.0f,
        situ_linear_beta = 25.0f;  // of situ alone; the second 0: the up half is not bounded
};

/// torch-style [out, in]. `gate` and `gate_bias` are null unless is_gated(); biases are null where there
/// are none.
struct MLPWeights {
  const void *gate, *up;                                // [I, D]
  const void* down;                                     // [D, I]
  const void *gate_bias = nullptr, *up_bias = nullptr;  // [I]
  const void* down_bias = nullptr;                      // [D]
};

struct MLPInput {
  const void* x;                     // [T, D]
  const float* row_scale = nullptr;  // [T], multiplies each token's output; or null: 1
};

struct MLPGradients {
  void* x;                                                              // [T, D]
  bool add_to_x = false;                                                // add to what `x` holds
  void *gate = nullptr, *up = nullptr, *down = nullptr;                 // as in MLPWeights
  void *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;  // null where there are none
  float* row_scale = nullptr;  // [T]; needed with MLPInput::row_scale
};

/// Bytes that forward saves for backward: gate(x) and up(x), [T, I] each; X is the caller's.
std::size_t mlp_saved_bytes(const MLPConfig& config);
std::size_t mlp_forward_workspace_bytes(const MLPConfig& config);
std::size_t mlp_backward_workspace_bytes(const MLPConfig& config);

/// y [T, D] = row_scale * MLP(x) (+ y with add_to_y). `saved` (256-byte aligned) may be null when no backward
/// follows. Arrays that are written share no bytes with each other or with those that are read, in both
/// passes. Throws ArgumentError naming a field out of range, CudaError when a call fails.
void mlp_forward(const MLPConfig& config, const MLPWeights& weights, const MLPInput& input, void* y,
                 bool add_to_y, void* saved, void* workspace, Blas& blas, cudaStream_t stream);

/// Gradients for the cotangent dy [T, D], after mlp_forward with the same config, weights, input and `saved`.
void mlp_backward(const MLPConfig& config, const MLPWeights& weights, const MLPInput& input, const void* dy,
                  const void* saved, const MLPGradients& gradients, void* workspace, Blas& blas,
                  cudaStream_t stream);

}  // namespace moeref::cuda
