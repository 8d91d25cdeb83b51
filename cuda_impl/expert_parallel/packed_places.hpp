// Where rows lie that follow each other without gaps: all ranks learn how many rows each has for each, and
// find the same places.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_impl/expert_parallel/dispatch.hpp"

namespace moeref::cuda {

/// Of counts and work [segments, n] the sums over the segments, to told[p] [2, n] for all ranks p.
void tell_totals(int ranks, int segments, const int* counts, const int* work, const RankPointers& told,
                 cudaStream_t stream);

/// What every rank has room for.
struct PackedRoom {
  std::int64_t rows, arrivals, returns;  // slots with work on it; rows that arrive, and that come back
};
struct PackedPlaces {
  RowPlaces rows;
  int *rows_needed, *token_rows_needed;  // [n] of each rank: slots with work; the larger number of its rows
};
/// told [n, 2, n] of all ranks. Bit p of `reached`: ranks p and this one store into each other's memory.
/// Where one rank has no room for what comes no rank sends anything: all numbers of `out.rows` are 0.
void place_packed_rows(const int* told, int ranks, int rank, unsigned long long reached,
                       const PackedRoom& room, const PackedPlaces& out, cudaStream_t stream);

/// ids [room, slots]: none from the first row on that does not arrive.
void no_expert_behind(const RowPlaces& places, int ranks, std::int64_t room, int slots, int* ids,
                      cudaStream_t stream);

}  // namespace moeref::cuda
