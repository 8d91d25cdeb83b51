// Brings each token to the rows of its experts.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// rows[slot_row[t * slots + j]] = tokens[t] for every slot that has a row. tokens [tokens, dim], rows [R,
/// dim]; rows that no slot has are left as they are.
void dispatch(DataType dtype, const void* tokens, const int* slot_row, std::int64_t count, int slots, int dim,
              void* rows, cudaStream_t stream);

}  // namespace moeref::cuda
