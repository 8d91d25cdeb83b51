// Which tokens go to which rank, and the rows on their way there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/expert_parallel.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

struct DispatchShape {
  std::int64_t tokens, max_tokens;  // T, M
  int slots, ranks, own_experts;    // k, n, E / n
  Exchange exchange;
};

struct DispatchInput {
  const int* ids;                  // [T, k]
  const float* weights;            // [T, k]
  const std::uint8_t* token_mask;  // [T] or null
};

/// What this rank and the receivers know of the rows.
struct Dispatch {
  int* place;           // [T, n] the token's row among those for a rank, -1: does not go there
  int* sent;            // [n] rows for each rank
  RankPointers counts;  // one int a rank: the same numbers
  RankPointers ids;     // [M, k] for each rank: of its own experts, from 0; -1 for others and behind the rows
  RankPointers weights;  // [M, k] for each rank
};

std::size_t dispatch_workspace_bytes(const DispatchShape& shape);

/// Rows for a rank keep the order of their tokens. all_to_all: tokens with work there; all_gather: all.
void plan_dispatch(const DispatchShape& shape, const DispatchInput& input, const Dispatch& out,
                   void* workspace, cudaStream_t stream);

/// rows [T, width] of `dtype` to to[p][place[t, p]] for every rank p that the token goes to, if that place is
/// in the range.
void push_rows(const DispatchShape& shape, DataType dtype, int width, const void* rows, const int* place,
               const RankPointers& to, RowRange range, cudaStream_t stream);

}  // namespace moeref::cuda
