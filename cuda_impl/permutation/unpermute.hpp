// Adds each token's rows.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_impl/permutation/input_slots.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// out[t] = sum over slots j = 0 .. slots - 1, in this order and in fp32, of rows[slot_row[t * slots + j]],
/// and then of weight times input.rows[t] for the input slots, rounded once to `dtype`; 0 where there is
/// neither. rows [R, dim], out [tokens, dim].
void unpermute(DataType dtype, const void* rows, const int* slot_row, std::int64_t tokens, int slots, int dim,
               void* out, cudaStream_t stream, const InputSlots& input = {});

}  // namespace moeref::cuda
