// From the partial statistics of blocks of tokens to expert load and auxiliary loss.
#pragma once

#include "moeref/cuda/aux_loss.hpp"

namespace moeref::cuda {

struct BlockStatistics {
  const int* load;    // [blocks, E]
  const int* tokens;  // [blocks]
  const void* sums;   // [blocks, E], double if fp64, else float; or null
  bool fp64;
  int blocks;
};

/// Any pointer may be null. The statistics are written twice for callers that want them in two places.
struct FinishedStatistics {
  AuxStatistics first, second;
  float* loss;
  double* gradient;  // [E], f_i / n
};

/// Adds the blocks in a fixed order, and computes the loss from the sums where it is wanted.
void finish_statistics(int experts, int slots, const BlockStatistics& parts, const FinishedStatistics& out,
                       cudaStream_t stream);

}  // namespace moeref::cuda
