// Sums on the way back: at the rank that holds the experts, then at the rank that holds the token.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_impl/expert_parallel/dispatch.hpp"
#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/expert_parallel.hpp"

namespace moeref::cuda {

/// Rows of own experts behind the rows that were received: n ranks of up to M, of which counts[s] are used.
struct ReceivedRows {
  const int* counts;    // [n]
  const int* slot_row;  // [n M k]
  const void* rows;     // [n M k, width] in `dtype`
  DataType dtype;
  int width;
};

/// n, and this rank's place among them.
struct RankPlace {
  int ranks, rank;
};

/// For row i of the range and rank s: to[s][i] = sum over its k slots, in their order and in fp32, of its
/// rows, rounded to dtype; 0 where it has none. With `d_weights` [n M, k], also its k numbers to
/// weights_to[s][i].
void combine_to_ranks(const ReceivedRows& received, std::int64_t max_tokens, int slots, RankPlace place,
                      RowRange range, const RankPointers& to, const float* d_weights,
                      const RankPointers& weights_to, cudaStream_t stream);

/// One number to every rank.
void to_all_ranks(const int* number, int ranks, const RankPointers& to, cudaStream_t stream);

struct ReturnedRows {
  const int* place;  // [T, n] as plan_dispatch gives it
  const void* rows;  // [n, M, width]: what each rank sent back
  DataType dtype;
  int width;
};

/// out[t] = sum over the ranks that the token went to, in their order and in fp32; 0 where it went nowhere.
void sum_returned(const ReturnedRows& returned, std::int64_t tokens, std::int64_t max_tokens, int ranks,
                  void* out, cudaStream_t stream);

/// out [T, k]: what the rank that holds the expert of a slot found; 0 for slots that went nowhere.
/// returned [n, M, k].
void gather_weight_gradients(const int* place, const float* returned, const int* ids,
                             const std::uint8_t* token_mask, std::int64_t tokens, std::int64_t max_tokens,
                             int slots, int ranks, int own_experts, float* out, cudaStream_t stream);

}  // namespace moeref::cuda
