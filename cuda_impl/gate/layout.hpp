// What the gate's forward and backward passes share: argument checks, the kernels' view of the config, and
// the layout of `saved` and of the workspaces.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_impl/aux_loss/statistics.hpp"
#include "cuda_impl/gate/gate_input.hpp"
#include "cuda_impl/gate/kept_slots.hpp"
#include "cuda_impl/gate/product.hpp"
#include "cuda_impl/gate/route_tokens.hpp"
#include "cuda_impl/gate/sinkhorn.hpp"
#include "cuda_impl/memory/arena.hpp"
#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

void check_config(const GateConfig& config);

/// The type of S as the documented system hands it to the auxiliary loss.
DataType scores_type(const GateConfig& config);
RoutingRule routing_rule(const GateConfig& config, bool has_correction);
TokenBlocks token_blocks(const GateConfig& config);
/// Of the forward pass, by sequences of the auxiliary loss.
TokenBlocks route_blocks(const GateConfig& config);
/// With the earlier loads that the config asks for.
AuxLossRule loss_rule(const GateConfig& config, const GateInput& input);
/// Throws ArgumentError where groups have fewer experts than their score adds, where corrected weights meet a
/// selection by logits, and where the config asks for what is not given.
void check_given(const GateConfig& config, const GateParameters& parameters, const GateInput& input);

/// Bytes of a number in partial sums.
std::size_t sum_bytes(const GateConfig& config);
/// What scores and weights are computed in.
inline DataType accumulator_type(const GateConfig& c) {
  return c.compute_type() == DataType::float64 ? DataType::float64 : DataType::float32;
}
CapacityShape capacity_shape(const GateConfig& config);
/// The slots that experts take. `values`: GateSaved::raw_weights.
KeptSlots kept_slots(const GateConfig& config, const GateParameters& parameters, const int* dispatched,
                     const void* values);
/// Columns of the gradient of the logits in memory: E, filled with zeros to a multiple of 8.
inline std::int64_t logit_stride(const GateConfig& c) { return (c.experts + 7) / 8 * 8; }
/// How many planes of x's type an fp32 W is held in for products with it, 0 where it is taken as it is: what
/// the compute type asks of it.
int weight_planes(const GateConfig& config);
/// W as the products take it: `planes` are memory for weight_planes() of them, filled here.
Operand weight_operand(const GateConfig& config, const void* weight, void* planes, std::int64_t row_stride,
                       std::int64_t col_stride, cudaStream_t stream);
/// Whether that gradient, in fp32, is held in bfloat16 planes: where both of its products are with bfloat16.
bool holds_planes(const GateConfig& config);

ProductShape logits_shape(const GateConfig& config);
ProductShape weight_gradient_shape(const GateConfig& config);

struct GateSaved {
  void* logits;          // [T, E] in the compute type
  double* aux_gradient;  // [B, E], f_i / (n B), or the weighted sum over several losses
  double* z_inverse_n;   // one number, with the z-loss
  int* dispatched;       // [T, k] where slots are dropped
  void* raw_weights;     // [T, k] in accumulator_type(), where they are divided after dropping
  GateSaved(Arena& arena, const GateConfig& config);
};
struct GateForwardWorkspace {
  void* input;  // [T, D] in input_type(), where it is not x
  void* weight_planes;
  void* partial_logits;
  int *block_load, *block_tokens;
  void* block_sums;
  std::int64_t *load, *real_tokens;  // where the caller wants none
  double* score_sum;
  void* capacity;
  int* dispatched;        // where nothing is saved and the caller wants none
  float* order_weights;   // [T, k], those that slots are ordered by, where the caller wants none
  void* raw_weights;      // where nothing is saved
  double* block_squares;  // of the z-loss
  int* block_first_choices;
  SequenceStatistics sequences;
  BalancedFactors balanced;
  GateForwardWorkspace(Arena& arena, const GateConfig& config);
};
struct GateBackwardWorkspace {
  void *input, *d_input;  // [T, D] in input_type(), where that is not x
  float *inverse_roots, *scale_parts;
  void* weight_planes;
  void* d_logits;
  void* block_sums;
  float* scale_terms;  // [T, k] with per_expert_scale
  void* weight_parts;
  void* d_kept;  // [T, k] in accumulator_type(), where slots are dropped
  GateBackwardWorkspace(Arena& arena, const GateConfig& config);
};

}  // namespace moeref::cuda
