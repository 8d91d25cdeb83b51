// From the partial statistics of blocks of tokens to expert load and auxiliary loss.
#pragma once

#include "moeref/cuda/aux_loss.hpp"

namespace moeref::cuda {

struct BlockStatistics {
  const int* load;    // [blocks, E]
  const int* tokens;  // [blocks]
  const void* sums;   // [blocks, E], double if fp64, else float; or null
  bool fp64;
  int blocks;                          // of each sequence
  const int* first_choices = nullptr;  // [blocks, E] where the rule counts these
};

/// Any pointer may be null. The statistics are written twice for callers that want them in two places.
struct FinishedStatistics {
  AuxStatistics first, second;
  float* loss;
  double* gradient;  // [B, E], f_i / (n B), and further losses' as the rule says
};

/// Statistics of each sequence, for rules that are not the documented one: [B], [B, E] each. `arena` has
/// take<T>(count); nothing is taken for the documented rule.
struct SequenceStatistics {
  AuxStatistics all = {};

  template <class Arena>
  SequenceStatistics(Arena& arena, int experts, const AuxLossRule& rule) {
    if (rule.documented()) return;
    const auto sequences = static_cast<std::size_t>(rule.sequences),
               each = sequences * static_cast<std::size_t>(experts);
    all.real_tokens = arena.template take<std::int64_t>(sequences);
    all.load = arena.template take<std::int64_t>(each);
    all.score_sum = arena.template take<double>(each);
    if (rule.first_choice) all.first_choices = arena.template take<std::int64_t>(each);
  }
};

/// Adds the blocks in a fixed order, and computes the loss from the sums where it is wanted. One launch for
/// the documented rule, two for others.
void finish_statistics(int experts, const AuxLossRule& rule, const BlockStatistics& parts,
                       const FinishedStatistics& out, const SequenceStatistics& sequences,
                       cudaStream_t stream, const FurtherLosses& further = {});

}  // namespace moeref::cuda
