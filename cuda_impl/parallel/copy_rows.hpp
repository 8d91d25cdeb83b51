// Rows of staged slots on their way to the peers, as many as there are: a number that the device alone knows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "moeref/cuda/group.hpp"

namespace moeref::cuda {

struct RowCopies {
  RankPointers from, to;  // slots of rows; null for ranks that get nothing
  int ranks, rank;
  const int* used;         // [ranks] rows of each slot that there are
  const int *laid, *home;  // [ranks] at which row of `from` and `to` a slot begins; null: at the first
  std::size_t row_bytes;
  std::int64_t first, rows;  // of those the rows of this range go
};

void copy_rows(const RowCopies& copies, cudaStream_t stream);

}  // namespace moeref::cuda
