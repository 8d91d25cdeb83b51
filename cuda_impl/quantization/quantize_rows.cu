// One block per row, a warp per group of columns: the largest first, then the codes. Floor: rows read, and
// float32 or codes written once, at copy bandwidth.
#include "cuda_impl/quantization/quantize_rows.hpp"

#include <cuda_fp8.h>

#include <cfloat>

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {
namespace {

constexpr unsigned kRowThreads = 128;
constexpr float kLargestCode = 448.0f;

__device__ int exponent_of(float positive) { return static_cast<int>(__float_as_uint(positive) >> 23) - 127; }
__device__ float two_to(int exponent) {
  return __uint_as_float(static_cast<unsigned>(max(exponent, -126) + 127) << 23);
}

/// Of a group whose largest absolute value is m; below 2^-100 nothing is asked of it.
__device__ float group_scale(ActivationFormat format, float m) {
  switch (format) {
    case ActivationFormat::fp8_e4m3_group128:
      return __fdiv_rn(m, kLargestCode);
    case ActivationFormat::fp8_e4m3_group128_ue8m0:
    case ActivationFormat::mxfp8_rceil: {
      // 448 is 1.75 * 2^8.
      const int exponent = exponent_of(m);
      return two_to(m <= 1.75f * two_to(exponent) ? exponent - 8 : exponent - 7);
    }
    case ActivationFormat::none:
    case ActivationFormat::mxfp8:
      break;
  }
  return two_to(exponent_of(m) - 8);
}

/// The nearest number of e4m3, ties to even, saturating.
__device__ float to_code(float quotient) {
  const float size = fabsf(quotient);
  if (size != size) return quotient;
  if (size >= kLargestCode) return copysignf(kLargestCode, quotient);
  const int step = max(exponent_of(size), -6) - 3;
  return copysignf(rintf(size * two_to(-step)) * two_to(step), quotient);
}

template <class T>
__device__ const T* row_of(const RowSource& source, std::int64_t row, int width) {
  return static_cast<const T*>(source.rows) +
         (source.row_token ? std::int64_t{source.row_token[row]} : row) * width;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    quantize(ActivationFormat format, int group, const ChunkRows which, const RowSource source, int width,
             float* out) {
  wait_for_earlier_kernels();
  const std::int64_t row = blockIdx.x;
  if (which.expert_of(row) < 0) return;
  const T* from = row_of<T>(source, row, width);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int first = warp * group; first < width; first += static_cast<int>(kRowThreads / 32) * group) {
    const int end = min(first + group, width);
    float m = 0;
    for (int i = first + lane; i < end; i += 32) m = fmaxf(m, fabsf(to_float(from[i])));
    m = warp_largest(m);
    const float scale = m > 0 ? group_scale(format, m) : 1.0f;
    for (int i = first + lane; i < end; i += 32)
      out[row * width + i] = to_code(__fdiv_rn(to_float(from[i]), scale)) * scale;
  }
}

/// Groups of 128: four neighbours a lane.
__global__ void __launch_bounds__(kRowThreads)
    quantize_to_codes(ActivationFormat format, const ChunkRows which, const RowSource source, int width,
                      const CodedRows out, std::int64_t pitch) {
  wait_for_earlier_kernels();
  const std::int64_t row = blockIdx.x;
  const int e = which.expert_of(row);
  if (e < 0) return;
  const std::int64_t segment = std::int64_t{e} * which.chunks + which.chunk, begin = which.offsets[segment],
                     scale_at = first_scale(begin, segment) + row - begin;
  const __nv_bfloat16* from = row_of<__nv_bfloat16>(source, row, width);
  const int lane = threadIdx.x % 32;
  for (int group = threadIdx.x / 32; group * 128 < width; group += static_cast<int>(kRowThreads / 32)) {
    const int i = group * 128 + lane * 4;
    float v[4] = {};
    if (i < width) {
      const uint2 raw = *reinterpret_cast<const uint2*>(from + i);
      v[0] = __uint_as_float(raw.x << 16), v[1] = __uint_as_float(raw.x & 0xffff0000u);
      v[2] = __uint_as_float(raw.y << 16), v[3] = __uint_as_float(raw.y & 0xffff0000u);
    }
    const float m = warp_largest(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])))),
                scale = m > 0 ? group_scale(format, m) : 1.0f;
    // Divided as __fdiv_rn does it, with one reciprocal for all; not where its steps would underflow, below
    // 2^-100.
    const float inverse = __frcp_rn(scale);
    const auto quotient = [&](float x) {
      const float q = x * inverse;
      return fabsf(q) <= FLT_MAX ? __fmaf_rn(__fmaf_rn(-q, scale, x), inverse, q) : q;
    };
    const auto pair = [&](float low, float high) -> std::uint32_t {
      return __nv_cvt_float2_to_fp8x2({quotient(low), quotient(high)}, __NV_SATFINITE, __NV_E4M3);
    };
    const std::uint32_t codes = pair(v[0], v[1]) | pair(v[2], v[3]) << 16;
    if (i < width) *reinterpret_cast<std::uint32_t*>(out.codes + row * width + i) = codes;
    if (lane == 0) out.scales[group * pitch + scale_at] = scale;
  }
}

}  // namespace

void quantize_rows(ActivationFormat format, DataType dtype, const ChunkRows& which, const RowSource& source,
                   int width, float* out, cudaStream_t stream) {
  if (which.room == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_overlapped<quantize<T>>("quantize_rows",
                                   {static_cast<unsigned>(which.room), kRowThreads, 0, stream}, format,
                                   group_columns(format), which, source, width, out);
  });
}

void quantize_rows(ActivationFormat format, const ChunkRows& which, const RowSource& source, int width,
                   const CodedRows& out, cudaStream_t stream) {
  if (group_columns(format) != 128 || width % 16 != 0)
    throw ArgumentError("codes by row: want groups of 128 columns and a width that is a multiple of 16");
  if (which.room == 0) return;
  launch_overlapped<quantize_to_codes>(
      "quantize_rows", {static_cast<unsigned>(which.room), kRowThreads, 0, stream}, format, which, source,
      width, out, scale_pitch(which.room, which.experts * which.chunks));
}

}  // namespace moeref::cuda
