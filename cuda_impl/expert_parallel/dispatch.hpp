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

/// How many rows this rank exchanges with each rank and at which row of a region they begin: [n] each, on the
/// device. In regions of slots they begin at 0 of a slot; in those of packed rows those of all ranks follow
/// each other, in the order of the ranks.
struct RowPlaces {
  int *sent, *arrived;  // to each rank, from each rank; arrived is that of packed rows
  int* out;             // of those for rank p, at p; here, among all that go out, where p is out of reach
  int* in;              // of those from rank s, here
  int *home, *laid;     // of those that go back to s: at s, and here where they are staged
  int* back;            // of those that come back from rank p, here
  static constexpr std::size_t kNumbers = 7;  // for each rank
};

struct DispatchInput {
  const int* ids;                  // [T, k]
  const float* weights;            // [T, k]
  const std::uint8_t* token_mask;  // [T] or null
};

/// What this rank and the receivers know of the rows.
struct Dispatch {
  int* place;           // [T, n] the token's row among those for a rank, -1: does not go there
  RowPlaces rows;       // filled, but for `arrived`; where rows are packed: found before
  RankPointers counts;  // one int a rank, the same as rows.sent; not where rows are packed
  RankPointers ids;     // [M, k] for each rank: of its own experts, from 0; -1 for others and behind the rows
  RankPointers weights;  // [M, k] for each rank
};

std::size_t dispatch_workspace_bytes(const DispatchShape& shape);

/// Rows for a rank keep the order of their tokens. all_to_all: tokens with work there; all_gather: all.
void plan_dispatch(const DispatchShape& shape, const DispatchInput& input, const Dispatch& out,
                   void* workspace, cudaStream_t stream);

/// Packed rows, all_to_all: first tells all ranks what this one sends to each. told[p] [2, n]: rows for each
/// rank, and slots with work there.
void count_dispatch(const DispatchShape& shape, const DispatchInput& input, const RankPointers& told,
                    void* workspace, cudaStream_t stream);
/// After place_packed_rows, on the workspace of count_dispatch. `received_ids` [room, k]: no
/// expert behind the rows that arrive here.
void plan_packed_dispatch(const DispatchShape& shape, const DispatchInput& input, const Dispatch& out,
                          int* received_ids, std::int64_t room, void* workspace, cudaStream_t stream);

/// rows [T, width] of `dtype` to to[p][begin[p] + place[t, p]] for every rank p that the token goes to, if
/// that place is in the range.
void push_rows(const DispatchShape& shape, DataType dtype, int width, const void* rows, const int* place,
               const int* begin, const RankPointers& to, RowRange range, cudaStream_t stream);

}  // namespace moeref::cuda
