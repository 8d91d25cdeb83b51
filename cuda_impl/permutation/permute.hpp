// Brings each token to the rows of its experts.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

/// Of every `period` tokens those in the range.
struct PeriodicTokens {
  std::int64_t count, period;  // tokens in all, a multiple of the period
  RowRange range;
};

/// rows[slot_row[t * slots + j]] = tokens[t] for these tokens and every slot of theirs that has a row. tokens
/// [count, dim], rows [R, dim]; rows that no such slot has are left as they are.
void permute(DataType dtype, const void* tokens, const int* slot_row, const PeriodicTokens& which, int slots,
             int dim, void* rows, cudaStream_t stream);
/// The same times weights[t * slots + j], rounded once to dtype. row_weight[row] of such a row becomes 1:
/// what follows weighs it no more.
void permute_weighted(DataType dtype, const void* tokens, const float* weights, const int* slot_row,
                      const PeriodicTokens& which, int slots, int dim, void* rows, float* row_weight,
                      cudaStream_t stream);
inline PeriodicTokens all_tokens(std::int64_t count) { return {count, count, {0, count}}; }

}  // namespace moeref::cuda
