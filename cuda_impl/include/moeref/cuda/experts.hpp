// Routed experts (SPEC.md 5) in float32, bfloat16 or float16 with fp32 accumulation, forward and backward.
//
// No call synchronises or looks at token counts on the host; all may be captured in a CUDA graph and replayed
// with other contents of the same buffers. Results are the same bits on every run. Matrices are row-major.
// Rounding to the data type happens where a matrix is stored: H, A' = act(H) p, the rows that are combined,
// dH, and the results; float32 products are fp32 multiply-adds, never TF32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/activation.hpp"
#include "moeref/cuda/activation_format.hpp"
#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/weight_format.hpp"

namespace moeref::cuda {

/// Which kernels compute the grouped products; `automatic` follows the table in
/// grouped_gemm/product_kinds.hpp. The wgmma ones need compute capability 9.0, bfloat16 and widths that are
/// multiples of 8; wgmma_planes, of 9.0 too, multiplies float32 of any widths as three bfloat16
/// each, within the bound of an fp32 sum in order; portable runs from 8.0 up with any widths, and its float32
/// are fp32 multiply-adds, K ascending. wgmma_e4m3 multiplies codes by codes, with the accumulator
/// e8m13_promoted128, bfloat16 beside them, D a multiple of 16 and I of 64; its gradients are
/// wgmma_clusters'. few_rows is for inference at a few tokens: it reads the weights once at the memory's
/// rate, as numbers of 16 bits or as codes; its gradients are portable's.
enum class ExpertsPath {
  automatic,
  few_rows,
  wgmma_turns,
  wgmma_clusters,
  wgmma,
  wgmma_planes,
  wgmma_e4m3,
  portable
};

struct ExpertsConfig {
  std::int64_t tokens;  // T, at least 0; tokens * slots < 2^31
  int dim;              // D, at least 1
  int inter_dim;        // I, at least 1
  int experts;          // E, 1 to 1024, those with weights
  int slots;            // k, at least 1
  Activation activation = Activation::swiglu;
  ActivationParameters activation_parameters = {};
  bool apply_router_weight_after_down = false;
  DataType dtype = DataType::bfloat16;  // of all matrices below given as void
  ExpertsPath path = ExpertsPath::automatic;
  WeightFormat weight_format = WeightFormat::none;  // of gate_and_up and down
  // Of rows, that is slots with an expert: for how many there is room, and how many an even routing gives. 0:
  // tokens * slots. With expert parallelism alone, which says when there is too little room.
  std::int64_t max_rows = 0, expected_rows = 0;
  // Conventions beyond the documented system (SPEC.md 10), under the names of their fields.
  bool router_weight_on_input = false;  // p x enters the expert, and p stands nowhere else
  // What both products multiply are rows of codes and weights of codes.
  ActivationFormat activation_format = ActivationFormat::none;  // with a weight_format
  int identity_experts = 0;  // n_identity_experts: ids E and above that return p x, Z of them
  Accumulator accumulator = Accumulator::float32;  // the least that the caller wants; another than float32
                                                   // with e4m3 of a scale per 128 columns on both sides

  /// Width of H: 2I for gated activations, I for others.
  int up_width() const { return is_gated(activation) ? 2 * inter_dim : inter_dim; }
};

struct ExpertsWeights {
  const void* gate_and_up;       // [E, D, up_width]
  const void* down;              // [E, I, D]
  const void* gate_and_up_bias;  // [E, up_width] or null
  const void* down_bias;         // [E, D] or null
  // With a weight format the two matrices are codes [E, N, K] (moeref/cuda/weight_format.hpp), and these are
  // what they are multiplied by. Products take the numbers in the data type. Kernels that cannot read codes
  // get the numbers of all experts in the workspace, anew in each pass.
  WeightScales gate_and_up_scales = {}, down_scales = {};
};

struct ExpertsInput {
  const void* x;                   // [T, D]
  const int* ids;                  // [T, k]; outside [0, E + Z): the slot contributes nothing
  const float* weights;            // [T, k]
  const std::uint8_t* token_mask;  // [T], 1 = real token; or null
};

struct ExpertsGradients {
  void* x;                 // [T, D]
  float* weights;          // [T, k], 0 for slots that contribute nothing
  void* gate_and_up;       // [E, D, up_width], 0 for experts without tokens; null: not wanted, as of codes
  void* down;              // [E, I, D] or null
  void* gate_and_up_bias;  // [E, up_width] or null
  void* down_bias;         // [E, D] or null
};

/// Bytes that forward saves for backward: H [T k, up_width] and the permutation; X is the caller's. With an
/// activation_format and apply_router_weight_after_down also the rows before that weight [T k, D].
std::size_t saved_bytes(const ExpertsConfig& config);
std::size_t forward_workspace_bytes(const ExpertsConfig& config);
std::size_t backward_workspace_bytes(const ExpertsConfig& config);

/// The path that `automatic` stands for on the current device, or the one asked for. Throws ArgumentError
/// when that one cannot serve the config, CudaError below compute capability 8.0.
ExpertsPath selected_path(const ExpertsConfig& config);

/// Output [T, D]: every element is written, 0 for tokens without a row. `saved` (saved_bytes, 256-byte
/// aligned) may be null when no backward follows; then the permutation lives in the workspace. Matrices must
/// be 16-byte aligned. Arrays that are written share no bytes with each other or with those that are read.
/// Throws ArgumentError for a field out of range, CudaError when a launch fails or the device cannot run the
/// path.
void experts_forward(const ExpertsConfig& config, const ExpertsWeights& parameters, const ExpertsInput& input,
                     void* output, void* saved, void* workspace, cudaStream_t stream);

/// Gradients for the cotangent `d_output` [T, D], after experts_forward with the same config, inputs and
/// `saved`; arrays as there.
void experts_backward(const ExpertsConfig& config, const ExpertsWeights& parameters,
                      const ExpertsInput& input, const void* d_output, const void* saved,
                      const ExpertsGradients& gradients, void* workspace, cudaStream_t stream);

}  // namespace moeref::cuda
