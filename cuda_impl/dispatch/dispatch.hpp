// Brings each token to the rows of its experts.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

/// rows[slot_row[t * slots + j]] = tokens[t] for the tokens of one chunk and every slot of theirs that has a
/// row. tokens [count, dim], count a multiple of the chunks' period; rows [R, dim]; rows that no such slot
/// has are left as they are.
void dispatch(DataType dtype, const void* tokens, const int* slot_row, std::int64_t count,
              const TokenChunks& chunks, int chunk, int slots, int dim, void* rows, cudaStream_t stream);

}  // namespace moeref::cuda
