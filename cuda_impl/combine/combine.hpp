// Adds each token's rows.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace moeref::cuda {

/// out[t] = sum over slots j = 0 .. slots - 1, in this order and in fp32, of rows[slot_row[t * slots + j]],
/// rounded once to bf16; 0 where no slot has a row. rows [R, dim], out [tokens, dim], dim a multiple of 8,
/// both 16-byte aligned.
void combine(const __nv_bfloat16* rows, const int* slot_row, std::int64_t tokens, int slots, int dim,
             __nv_bfloat16* out, cudaStream_t stream);

}  // namespace moeref::cuda
