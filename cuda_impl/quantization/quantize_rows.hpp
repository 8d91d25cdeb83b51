// Rows as codes and scales (SPEC.md 11.1), or as the numbers that these stand for.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cuda_impl/permutation/chunk_rows.hpp"
#include "moeref/cuda/activation_format.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// What is quantised: R rows, or tokens, each of which goes to the rows of all of its slots.
struct RowSource {
  const void* rows;  // [count, width]
  std::int64_t count;
  const int* slot_row;  // [count, slots], -1 where there is none; null for rows
  int slots = 1;
};

/// out [R, width] float32 = code * scale for the rows of the chunk; others are left as they are. Codes and
/// scales are those of the reference, bit for bit; their product is rounded to float32.
void quantize_rows(ActivationFormat format, DataType dtype, const ChunkRows& which, const RowSource& source,
                   int width, float* out, cudaStream_t stream);

/// Where the scales of an expert's rows begin, segment = expert * chunks + chunk of ChunkRows, whose first
/// row is `begin`: at 16 bytes, where TMA has to begin, and behind those of the segment before.
__host__ __device__ constexpr std::int64_t first_scale(std::int64_t begin, std::int64_t segment) {
  return (begin + 3 * segment) / 4 * 4;
}
/// The scales of a column of groups: room for all rows of all segments, a multiple of 16 bytes.
constexpr std::int64_t scale_pitch(std::int64_t rows, std::int64_t segments) {
  return first_scale(rows + 3, segments);
}

struct CodedRows {
  std::uint8_t* codes;  // [R, width] e4m3
  float* scales;        // [groups of width, scale_pitch]
};
/// The bytes of both; codes are followed by scales, aligned to 16 bytes where those are.
constexpr std::size_t coded_bytes(std::int64_t rows, int width, std::int64_t segments) {
  return static_cast<std::size_t>((rows * width + 15) / 16 * 16 +
                                  4 * ((width + 127) / 128) * scale_pitch(rows, segments));
}
inline CodedRows coded_rows(void* memory, std::int64_t rows, int width) {
  auto* codes = static_cast<std::uint8_t*>(memory);
  return {codes, reinterpret_cast<float*>(codes + (rows * width + 15) / 16 * 16)};
}
/// The same codes and scales of bfloat16 rows, `width` a multiple of 16. Throws ArgumentError where groups
/// are not of 128 columns.
void quantize_rows(ActivationFormat format, const ChunkRows& which, const RowSource& source, int width,
                   const CodedRows& out, cudaStream_t stream);

}  // namespace moeref::cuda
