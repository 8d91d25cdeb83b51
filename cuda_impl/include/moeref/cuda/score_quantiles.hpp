// The correction bias set by quantiles of the scores (SPEC.md 10, bias_update_rule). Asynchronous,
// capturable, the same bits on every run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/gate.hpp"

namespace moeref::cuda {

/// Of the forwards since the last update; zeros before the first one. Under data parallelism both are summed
/// over the ranks before the update.
struct QuantileSums {
  double* sums;         // [E]
  std::int64_t* count;  // one number: forwards with a real token
};

std::size_t score_quantiles_workspace_bytes(const GateConfig& config);

/// Adds the quantiles of one forward: for each expert the floor(m k / E) + 1st largest of S - alpha over the
/// m real tokens, alpha the k + 1st largest S + c of a token. Logits [T, E] in compute_type() as gate_forward
/// saves them, which begin what it saves; mask [T] or null. Throws ArgumentError unless k < E, with groups,
/// and for ScoreFunction::softmax.
void accumulate_score_quantiles(const GateConfig& config, const float* correction, const void* logits,
                                const std::uint8_t* mask, const QuantileSums& sums, void* workspace,
                                cudaStream_t stream);

/// c = ema c - (1 - ema) sums / count, less its mean over E, in master and correction [E]; c as it is where
/// count is 0. Clears the sums. Throws ArgumentError for experts out of 1 to 1024.
void update_bias_by_quantiles(int experts, double ema, const QuantileSums& sums, float* master,
                              float* correction, cudaStream_t stream);

}  // namespace moeref::cuda
