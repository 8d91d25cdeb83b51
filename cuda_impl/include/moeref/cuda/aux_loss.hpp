// Expert load and the auxiliary load-balancing loss (SPEC.md 3.4) of given scores and ids. Asynchronous,
// capturable, the same bits on every run.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// What is known of some tokens; those of several ranks are summed before the loss. Any pointer of an output
/// may be null.
struct AuxStatistics {
  std::int64_t* real_tokens = nullptr;    // one number
  std::int64_t* load = nullptr;           // [E] real tokens whose ids contain the expert
  double* score_sum = nullptr;            // [E] sum_t m_t S_ti
  std::int64_t* first_choices = nullptr;  // [E] real tokens whose first id is the expert
};

/// How the loss counts (SPEC.md 3.4, and 10 for what differs from the default).
struct AuxLossRule {
  int slots = 1;              // what loads are divided by beside n: k, or 1 where they are not
  int counted = 1;            // how many slots a token has in the counts
  bool first_choice = false;  // aux_loss_counts: first_choices in the place of the load
  int sequences = 1;          // aux_loss_sequences, B: the loss is the mean of theirs
  bool accumulates = false;   // aux_loss_accumulated, of one sequence: earlier loads count, too
  const std::int64_t* accumulated = nullptr;  // [E] these loads
  // Further losses of all tokens as one sequence, those of the call alone and with the earlier loads. Where
  // there is one, the gradient is the sum of all, each times its weight.
  double loss_weight = 1.0, batch_weight = 0.0, global_weight = 0.0;

  bool has_further() const { return batch_weight > 0.0 || global_weight > 0.0; }
  bool adds_earlier_loads() const { return accumulates || global_weight > 0.0; }
  bool documented() const { return !first_choice && sequences == 1 && !accumulates && !has_further(); }
};

/// Where the losses of batch_weight and global_weight go, one number each; or null.
struct FurtherLosses {
  float *batch = nullptr, *global = nullptr;
};

/// The rule of a config of k slots, the earlier loads themselves left out.
inline AuxLossRule aux_loss_rule(int slots, bool over_slots, bool first_choice, int sequences,
                                 bool accumulates) {
  const int counted = first_choice ? 1 : slots;
  return {over_slots ? counted : 1, counted, first_choice, sequences, accumulates, nullptr};
}

struct AuxLossConfig {
  std::int64_t tokens;  // T, at least 0
  int experts;          // E, 1 to 1024
  int slots;            // k, 1 to 64
  DataType scores_type = DataType::bfloat16;
  bool over_slots = true;     // aux_loss_factor: f_i = load_i E / (k n), and not load_i E / n
  bool first_choice = false;  // aux_loss_counts
  int sequences = 1;          // aux_loss_sequences, a divisor of T
  bool accumulated = false;   // aux_loss_accumulated, of one sequence
};

struct AuxLossInput {
  const void* scores;  // [T, E] in scores_type
  const int* ids;      // [T, k]; outside [0, E): no expert. Twice in a token counts once
  const std::uint8_t* token_mask = nullptr;        // [T], 1 = real token; or null: all are
  const std::int64_t* accumulated_load = nullptr;  // [E] loads of earlier micro-batches, where `accumulated`
};

std::size_t aux_loss_workspace_bytes(const AuxLossConfig& config);

/// Statistics of all tokens; aux = sum_i f_i P_i in fp32, the mean over sequences; and its gradient by S
/// [B, E], f_i / (n B). Either of the latter may be null.
void aux_loss_forward(const AuxLossConfig& config, const AuxLossInput& input, const AuxStatistics& statistics,
                      float* loss, double* gradient, void* workspace, cudaStream_t stream);

/// The same two of one sequence from its statistics, which may be sums over ranks: all three of them, and
/// the first choices where the rule counts these.
void aux_loss_from_statistics(int experts, const AuxLossRule& rule, const AuxStatistics& statistics,
                              float* loss, double* gradient, cudaStream_t stream,
                              const FurtherLosses& further = {});

/// d aux / d S [T, E] in scores_type from `gradient` [B, E] as aux_loss_forward gives it: 0 of masked tokens.
void aux_loss_backward(const AuxLossConfig& config, const double* gradient, const std::uint8_t* token_mask,
                       void* d_scores, cudaStream_t stream);

}  // namespace moeref::cuda
