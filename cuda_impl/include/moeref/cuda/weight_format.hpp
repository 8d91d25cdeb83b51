// How the matrices of routed experts are stored: as numbers, or quantised (SPEC.md 11): codes of 8 or 4 bits
// by output, [E, N, K], and scales of blocks of them. Nobody looks for those that are NaN (0x7f and 0xff of
// e4m3, 255 of e8m0): what comes from them is not specified.
#pragma once

#include <cuda_runtime_api.h>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// In the order of the call's formats.
enum class WeightFormat { none, fp8_e4m3_block128, mxfp8, mxfp4, nvfp4, int4_group32, int4_group128 };
constexpr int kWeightFormatCount = 7;

/// What the codes of one parameter are multiplied by, on the device.
struct WeightScales {
  const void* blocks = nullptr;    ///< of the format's scale type; null without codes
  const float* experts = nullptr;  ///< [E], of nvfp4; else null
};

/// E matrices W [K, N] as codes and scales, in SPEC.md 11's shapes.
struct QuantizedMatrices {
  WeightFormat format;
  const void* codes;
  WeightScales scales;
  int experts, k, n;
};

/// out [E, K, N] = code * scale * expert scale, in float32 and then rounded to `dtype`. Throws ArgumentError
/// for a format without codes, CudaError when the launch fails.
void dequantize(const QuantizedMatrices& weights, DataType dtype, void* out, cudaStream_t stream);

}  // namespace moeref::cuda
