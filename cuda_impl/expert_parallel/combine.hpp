// Sums on the way back: at the rank that holds the experts, then at the rank that holds the token.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_impl/expert_parallel/dispatch.hpp"
#include "cuda_impl/permutation/input_slots.hpp"
#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/expert_parallel.hpp"

namespace moeref::cuda {

/// Rows of own experts behind the rows that were received: of rank s counts[s] from row begin[s] on.
struct ReceivedRows {
  const int *counts, *begin;  // [n]
  const int* slot_row;        // [received rows, k]
  const void* rows;           // [R, width] in `dtype`
  DataType dtype;
  int width;
};

/// n, and this rank's place among them.
struct RankPlace {
  int ranks, rank;
};
/// Row i for rank s is row begin[s] + i of of[s].
struct RowsToRanks {
  RankPointers of;
  const int* begin;  // [n]
};

/// For row i of the range and rank s: to[s][i] = sum over its k slots, in their order and in fp32, of its
/// rows, rounded to dtype; 0 where it has none. With `d_weights` [received rows, k], also its k numbers to
/// the same rows of weights_to[s].
void combine_to_ranks(const ReceivedRows& received, int slots, RankPlace place, RowRange range,
                      const RowsToRanks& to, const float* d_weights, const RankPointers& weights_to,
                      cudaStream_t stream);

/// One number to every rank.
void to_all_ranks(const int* number, int ranks, const RankPointers& to, cudaStream_t stream);

struct ReturnedRows {
  const int* place;  // [T, n] as plan_dispatch gives it
  const int* begin;  // [n] of what each rank sent back
  const void* rows;  // [.., width]
  DataType dtype;
  int width;
};

/// out[t] = sum over the ranks that the token went to, in their order, and over the token's input slots, in
/// fp32; 0 where there is neither.
void sum_returned(const ReturnedRows& returned, std::int64_t tokens, int ranks, void* out,
                  cudaStream_t stream, const InputSlots& input = {});

/// out [T, k]: what the rank that holds the expert of a slot found; 0 for slots that went nowhere.
/// returned [.., k]: what rank p sent begins at row begin[p].
void gather_weight_gradients(const int* place, const int* begin, const float* returned, const int* ids,
                             const std::uint8_t* token_mask, std::int64_t tokens, int slots, int ranks,
                             int own_experts, float* out, cudaStream_t stream);

}  // namespace moeref::cuda
