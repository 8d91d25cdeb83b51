#include "cuda_impl/grouped_gemm/sm90/tensor_map.hpp"

#include <cuda_runtime_api.h>

#include <string>

#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// Through the runtime, so that the library does not link the driver and loads on machines without one.
Encode encoder() {
  static const Encode function = [] {
    void* p = nullptr;
    cudaDriverEntryPointQueryResult found{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found),
          "cudaGetDriverEntryPointByVersion(cuTensorMapEncodeTiled)");
    if (found != cudaDriverEntryPointSuccess)
      throw CudaError("the driver has no cuTensorMapEncodeTiled: want CUDA 12 or newer");
    return reinterpret_cast<Encode>(p);
  }();
  return function;
}

CUtensorMap encode(CUtensorMapDataType type, int element_bytes, CUtensorMapSwizzle swizzle, const void* data,
                   std::int64_t count, std::int64_t rows, std::int64_t columns, int box_rows,
                   int box_columns) {
  CUtensorMap map;
  const cuuint64_t sizes[3] = {cuuint64_t(columns), cuuint64_t(rows), cuuint64_t(count)};
  const cuuint64_t strides[2] = {cuuint64_t(columns * element_bytes),
                                 cuuint64_t(columns * rows * element_bytes)};
  const cuuint32_t box[3] = {cuuint32_t(box_columns), cuuint32_t(box_rows), 1}, step[3] = {1, 1, 1};
  const CUresult status = encoder()(&map, type, 3, const_cast<void*>(data), sizes, strides, box, step,
                                    CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw CudaError("cuTensorMapEncodeTiled for [" + std::to_string(count) + ", " + std::to_string(rows) +
                    ", " + std::to_string(columns) + "]: error " + std::to_string(int(status)));
  return map;
}

}  // namespace

CUtensorMap tensor_map(const __nv_bfloat16* data, std::int64_t count, std::int64_t rows, std::int64_t columns,
                       int box_rows, int box_columns) {
  return encode(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, CU_TENSOR_MAP_SWIZZLE_128B, data, count, rows, columns,
                box_rows, box_columns);
}

CUtensorMap tensor_map(const std::uint8_t* data, std::int64_t count, std::int64_t rows, std::int64_t columns,
                       int box_rows, int box_columns) {
  return encode(CU_TENSOR_MAP_DATA_TYPE_UINT8, 1,
                box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_128B, data, count, rows,
                columns, box_rows, box_columns);
}

CUtensorMap tensor_map(const float* data, std::int64_t rows, std::int64_t columns, int box_columns) {
  return encode(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, CU_TENSOR_MAP_SWIZZLE_NONE, data, 1, rows, columns, 1,
                box_columns);
}

}  // namespace moeref::cuda
