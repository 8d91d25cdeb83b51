// Adds each token's rows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// out[t] = sum over slots j = 0 .. slots - 1, in this order and in fp32, of rows[slot_row[t * slots + j]],
/// rounded once to `dtype`; 0 where no slot has a row. rows [R, dim], out [tokens, dim].
void unpermute(DataType dtype, const void* rows, const int* slot_row, std::int64_t tokens, int slots, int dim,
               void* out, cudaStream_t stream);

}  // namespace moeref::cuda
