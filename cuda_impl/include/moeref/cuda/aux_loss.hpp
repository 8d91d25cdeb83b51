// Expert load and the auxiliary load-balancing loss (SPEC.md 3.4) of given scores and ids. Asynchronous,
// capturable, the same bits on every run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// What one rank knows of its tokens; under context parallelism the three are summed over the ranks. Any
/// pointer of an output may be null.
struct AuxStatistics {
  std::int64_t* real_tokens = nullptr;  // one number
  std::int64_t* load = nullptr;         // [E] real tokens whose ids contain the expert
  double* score_sum = nullptr;          // [E] sum_t m_t S_ti
};

struct AuxLossConfig {
  std::int64_t tokens;  // T, at least 0
  int experts;          // E, 1 to 1024
  int slots;            // k, 1 to 64
  DataType scores_type = DataType::bfloat16;
  bool over_slots = true;  // aux_loss_factor: f_i = load_i E / (k n), and not load_i E / n

  int loss_slots() const { return over_slots ? slots : 1; }
};

struct AuxLossInput {
  const void* scores;  // [T, E] in scores_type
  const int* ids;      // [T, k]; outside [0, E): no expert. Twice in a token counts once
  const std::uint8_t* token_mask = nullptr;  // [T], 1 = real token; or null: all are
};

std::size_t aux_loss_workspace_bytes(const AuxLossConfig& config);

/// Statistics of all tokens, and from them (unless `loss` is null) aux = sum_i f_i P_i in fp32.
void aux_loss_forward(const AuxLossConfig& config, const AuxLossInput& input, const AuxStatistics& statistics,
                      float* loss, void* workspace, cudaStream_t stream);

/// loss and gradient [E] = f_i / n from statistics (all three of them, which may be sums over ranks). Either
/// output may be null.
void aux_loss_from_statistics(int experts, int slots, const AuxStatistics& statistics, float* loss,
                              double* gradient, cudaStream_t stream);

/// d aux / d S [T, E] in scores_type: f_i m_t / n, for statistics as aux_loss_forward gives them (load and
/// real_tokens).
void aux_loss_backward(const AuxLossConfig& config, const AuxStatistics& statistics,
                       const std::uint8_t* token_mask, void* d_scores, cudaStream_t stream);

}  // namespace moeref::cuda
