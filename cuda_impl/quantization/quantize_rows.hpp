// Rows as the numbers that their codes and scales stand for (SPEC.md 11.1).
#pragma once

#include <cuda_runtime_api.h>

#include "cuda_impl/permutation/chunk_rows.hpp"
#include "moeref/cuda/activation_format.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// out [R, width] float32 = code * scale for the rows of the chunk; others are left as they are. rows [R,
/// width]. Codes and scales are those of the reference, bit for bit; their product is rounded to float32.
void quantize_rows(ActivationFormat format, DataType dtype, const ChunkRows& which, const void* rows,
                   int width, float* out, cudaStream_t stream);

}  // namespace moeref::cuda
