// Rows as codes and scales (SPEC.md 11.1), or as the numbers that these stand for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_impl/permutation/chunk_rows.hpp"
#include "moeref/cuda/activation_format.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct RowSource {
  const void* rows;      // [R, width], or, where row_token is given, by token
  const int* row_token;  // [R] or null
};

/// out [R, width] float32 = code * scale for the rows of the chunk; others are left as they are. Codes and
/// scales are those of the reference, bit for bit; their product is rounded to float32.
void quantize_rows(ActivationFormat format, DataType dtype, const ChunkRows& which, const RowSource& source,
                   int width, float* out, cudaStream_t stream);

/// The scales of a column of groups lie beside each other, for R rows or a few more: TMA wants 16 bytes.
constexpr std::int64_t scale_pitch(std::int64_t rows) { return (rows + 3) / 4 * 4; }

struct CodedRows {
  std::uint8_t* codes;  // [R, width] e4m3
  float* scales;        // [groups of width, scale_pitch(R)]
};
/// The same codes and scales of bfloat16 rows, `width` a multiple of 16. Throws ArgumentError where groups
/// are not of 128 columns.
void quantize_rows(ActivationFormat format, const ChunkRows& which, const RowSource& source, int width,
                   const CodedRows& out, cudaStream_t stream);

}  // namespace moeref::cuda
