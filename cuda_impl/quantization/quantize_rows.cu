// One block per source row, which writes all rows that it goes to: a group's largest first, then its codes.
// Floor: sources read, and float32 or codes written once, at copy bandwidth.
#include "cuda_impl/quantization/quantize_rows.hpp"

#include <cuda_fp8.h>

#include <algorithm>
#include <cfloat>

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"

namespace moeref::cuda {
namespace {

constexpr unsigned kRowThreads = 128;
constexpr int kLaneCodes = 16;
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

/// Where a source row goes: a row, and its place among the scales; -1 where that is not of the chunk.
struct Target {
  std::int64_t row, scale;
};
/// All of block `s`'s, [slots], in shared memory; whether there is any.
__device__ bool find_targets(const ChunkRows& which, const RowSource& source, std::int64_t s,
                             Target* targets) {
  for (int j = threadIdx.x; j < source.slots; j += static_cast<int>(blockDim.x)) {
    const std::int64_t row = source.slot_row ? source.slot_row[s * source.slots + j] : s;
    const int e = row < 0 ? -1 : which.expert_of(row);
    const std::int64_t segment = std::int64_t{e} * which.chunks + which.chunk;
    targets[j] =
        e < 0 ? Target{-1, -1}
              : Target{row, first_scale(which.offsets[segment], segment) + row - which.offsets[segment]};
  }
  __syncthreads();
  bool any = false;
  for (int j = 0; j < source.slots; ++j) any = any || targets[j].row >= 0;
  return any;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    quantize(ActivationFormat format, int group, const ChunkRows which, const RowSource source, int width,
             float* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* targets = reinterpret_cast<Target*>(shared);
  wait_for_earlier_kernels();
  if (!find_targets(which, source, blockIdx.x, targets)) return;
  const T* from = static_cast<const T*>(source.rows) + std::int64_t{blockIdx.x} * width;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int first = warp * group; first < width; first += static_cast<int>(kRowThreads / 32) * group) {
    const int end = min(first + group, width);
    float m = 0;
    for (int i = first + lane; i < end; i += 32) m = fmaxf(m, fabsf(to_float(from[i])));
    m = warp_largest(m);
    const float scale = m > 0 ? group_scale(format, m) : 1.0f;
    for (int i = first + lane; i < end; i += 32) {
      const float number = to_code(__fdiv_rn(to_float(from[i]), scale)) * scale;
      for (int j = 0; j < source.slots; ++j)
        if (targets[j].row >= 0) out[targets[j].row * width + i] = number;
    }
  }
}

/// Groups of 128, eight lanes each, sixteen neighbours a lane.
__global__ void __launch_bounds__(kRowThreads)
    quantize_to_codes(ActivationFormat format, const ChunkRows which, const RowSource source, int width,
                      const CodedRows out, std::int64_t pitch) {
  extern __shared__ __align__(16) unsigned char shared[];
  auto* targets = reinterpret_cast<Target*>(shared);
  wait_for_earlier_kernels();
  if (!find_targets(which, source, blockIdx.x, targets)) return;
  const __nv_bfloat16* from =
      static_cast<const __nv_bfloat16*>(source.rows) + std::int64_t{blockIdx.x} * width;
  for (int first = 0; first < width; first += static_cast<int>(blockDim.x) * kLaneCodes) {
    const int i = first + static_cast<int>(threadIdx.x) * kLaneCodes;
    uint4 raw[2] = {};
    if (i < width)
      raw[0] = *reinterpret_cast<const uint4*>(from + i),
      raw[1] = *reinterpret_cast<const uint4*>(from + i + 8);
    float v[kLaneCodes], m = 0;
#pragma unroll
    for (int k = 0; k < kLaneCodes; ++k) {
      const std::uint32_t word = (&raw[k / 8].x)[k % 8 / 2];
      v[k] = __uint_as_float(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
      m = fmaxf(m, fabsf(v[k]));
    }
#pragma unroll
    for (int lanes = 4; lanes > 0; lanes /= 2) m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, lanes));
    const float scale = m > 0 ? group_scale(format, m) : 1.0f;
    // Divided as __fdiv_rn does it, with one reciprocal for all; not where its steps would underflow, below
    // 2^-100.
    const float inverse = __frcp_rn(scale);
    const auto quotient = [&](float x) {
      const float q = x * inverse;
      return fabsf(q) <= FLT_MAX ? __fmaf_rn(__fmaf_rn(-q, scale, x), inverse, q) : q;
    };
    uint4 codes = {};
#pragma unroll
    for (int k = 0; k < kLaneCodes; k += 2)
      (&codes.x)[k / 4] |= std::uint32_t{__nv_cvt_float2_to_fp8x2({quotient(v[k]), quotient(v[k + 1])},
                                                                  __NV_SATFINITE, __NV_E4M3)}
                           << k % 4 * 8;
    if (i >= width) continue;
    for (int j = 0; j < source.slots; ++j) {
      const Target to = targets[j];
      if (to.row < 0) continue;
      *reinterpret_cast<uint4*>(out.codes + to.row * width + i) = codes;
      if (i % 128 == 0) out.scales[i / 128 * pitch + to.scale] = scale;
    }
  }
}

LaunchShape block_per_source(const RowSource& source, unsigned threads, cudaStream_t stream) {
  return {static_cast<unsigned>(source.count), threads, source.slots * sizeof(Target), stream};
}

}  // namespace

void quantize_rows(ActivationFormat format, DataType dtype, const ChunkRows& which, const RowSource& source,
                   int width, float* out, cudaStream_t stream) {
  if (source.count == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_overlapped<quantize<T>>("quantize_rows", block_per_source(source, kRowThreads, stream), format,
                                   group_columns(format), which, source, width, out);
  });
}

void quantize_rows(ActivationFormat format, const ChunkRows& which, const RowSource& source, int width,
                   const CodedRows& out, cudaStream_t stream) {
  if (group_columns(format) != 128 || width % kLaneCodes != 0)
    throw ArgumentError("codes by row: want groups of 128 columns and a width that is a multiple of 16");
  if (source.count == 0) return;
  const auto lanes = static_cast<unsigned>(width / kLaneCodes);
  launch_overlapped<quantize_to_codes>(
      "quantize_rows", block_per_source(source, std::min(kRowThreads, (lanes + 31) / 32 * 32), stream),
      format, which, source, width, out, scale_pitch(which.room, std::int64_t{which.experts} * which.chunks));
}

}  // namespace moeref::cuda
