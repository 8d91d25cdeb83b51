// Tensor maps for TMA; elements outside read as zero.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

namespace moeref::cuda {

/// Map of `data` [count, rows, columns] with boxes of [1, box_rows, box_columns], 128-byte swizzle. `columns`
/// a multiple of 8, data 16-byte aligned. Throws CudaError when the driver refuses.
CUtensorMap tensor_map(const __nv_bfloat16* data, std::int64_t count, std::int64_t rows, std::int64_t columns,
                       int box_rows, int box_columns);
/// The same of bytes, `columns` a multiple of 16, with boxes of 64 or 128 columns and a swizzle of as many
/// bytes.
CUtensorMap tensor_map(const std::uint8_t* data, std::int64_t count, std::int64_t rows, std::int64_t columns,
                       int box_rows, int box_columns);
/// Of `data` [rows, columns], `columns` a multiple of 4, with boxes of [1, box_columns], as they lie.
CUtensorMap tensor_map(const float* data, std::int64_t rows, std::int64_t columns, int box_columns);

}  // namespace moeref::cuda
