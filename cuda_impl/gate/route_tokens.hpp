// The two passes of the gate over its logits, one warp per token.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_impl/gate/routing_rule.hpp"
#include "cuda_impl/token_blocks/token_blocks.hpp"

namespace moeref::cuda {

struct RouteInput {
  const void* partial_logits;  // [splits, T, E], double where rule.compute is float64, else float
  int splits;
  const void* bias;  // [E] in parameter_type, or null
  DataType parameter_type;
  const float* correction;             // [E] or null
  const std::uint8_t* token_mask;      // [T] or null
  const int* replay_ids;               // [T, k] or null
  const void* expert_scale = nullptr;  // [E] in parameter_type or null, for rules beyond
  const float *token_factors = nullptr, *expert_factors = nullptr;  // [T], [E] of balance(), or null
};

/// Any pointer but `ids`, `block_load` and `block_tokens` may be null.
struct RouteOutput {
  int* ids;
  void* weights;  // [T, k], under raw_weights before any factor
  DataType weights_type;
  float* weights_float;      // [T, k] the same numbers, under raw_weights with their factors
  void* logits;              // [T, E] in rule.compute
  int* block_load;           // [blocks, E] real tokens of each expert
  int* block_tokens;         // [blocks] real tokens
  void* block_sums;          // [blocks, E] sums of m_t S_ti, in the type of the partial logits
  int* block_first_choices;  // [blocks, E] real tokens by their first slot, for rules beyond
  double* block_squares;     // [blocks] sums of m_t logsumexp(z_t)^2, for rules beyond
};

/// Logits, scores, groups, top-k, weights, load and score sums in one pass.
void route_tokens(const RoutingRule& rule, const TokenBlocks& blocks, std::int64_t tokens,
                  const RouteInput& in, const RouteOutput& out, cudaStream_t stream);

struct ScoresBackwardInput {
  const void* logits;  // [T, E] in rule.compute
  const float* correction;
  const std::uint8_t* token_mask;
  const int* ids;         // [T, k]
  const void* d_weights;  // [T, k]
  DataType d_weights_type;
  const double* aux_gradient;  // [E], f_i / n, of each sequence; or null
  double aux_scale;
  const void* expert_scale;  // [E] in parameter_type or null, for rules beyond
  DataType parameter_type;
  const double* z_inverse_n;         // one number or null, for rules beyond: 1 / n of the z-loss
  double z_scale;                    // its coefficient
  std::int64_t tokens_per_sequence;  // of aux_gradient, for rules beyond
};

struct ScoresBackwardOutput {
  void* d_logits;  // [T, stride] in rule.compute, or bfloat16 planes [kPlanes, T, stride]; zero past column E
  std::int64_t stride;
  bool planes;
  void* block_sums;    // [blocks, E] sums over the block's tokens, in the type of the partial logits, or null
  float* scale_terms;  // [T, k] dw times w without the experts' factors, or null
};

void scores_backward(const RoutingRule& rule, const TokenBlocks& blocks, std::int64_t tokens,
                     const ScoresBackwardInput& in, const ScoresBackwardOutput& out, cudaStream_t stream);

}  // namespace moeref::cuda
