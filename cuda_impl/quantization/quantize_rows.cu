// One block per row, a warp per group of columns: the largest first, then the codes. Floor: rows read and
// float32 written once, at copy bandwidth.
#include "cuda_impl/quantization/quantize_rows.hpp"

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
__global__ void __launch_bounds__(kRowThreads)
    quantize(ActivationFormat format, int group, const ChunkRows which, const T* rows, int width,
             float* out) {
  wait_for_earlier_kernels();
  const std::int64_t row = blockIdx.x;
  if (which.expert_of(row) < 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int first = warp * group; first < width; first += static_cast<int>(kRowThreads / 32) * group) {
    const int end = min(first + group, width);
    float m = 0;
    for (int i = first + lane; i < end; i += 32) m = fmaxf(m, fabsf(to_float(rows[row * width + i])));
    m = warp_largest(m);
    const float scale = m > 0 ? group_scale(format, m) : 1.0f;
    for (int i = first + lane; i < end; i += 32)
      out[row * width + i] = to_code(__fdiv_rn(to_float(rows[row * width + i]), scale)) * scale;
  }
}

}  // namespace

void quantize_rows(ActivationFormat format, DataType dtype, const ChunkRows& which, const void* rows,
                   int width, float* out, cudaStream_t stream) {
  if (which.room == 0) return;
  with_type(dtype, [&]<class T>() {
    launch_overlapped<quantize<T>>("quantize_rows",
                                   {static_cast<unsigned>(which.room), kRowThreads, 0, stream}, format,
                                   group_columns(format), which, static_cast<const T*>(rows), width, out);
  });
}

}  // namespace moeref::cuda
