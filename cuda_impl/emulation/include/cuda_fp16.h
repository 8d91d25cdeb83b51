// float16 of the emulated runtime: conversions round to nearest even, NaN becomes CUDA's.
#pragma once

#include <bit>

#include "cuda_runtime_api.h"

struct __half {
  unsigned short bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half v) {
  const unsigned sign = (v.bits & 0x8000u) << 16, exponent = v.bits >> 10 & 31, fraction = v.bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  // A denormal is its fraction times 2^-24; a product by a power of two is exact.
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * (static_cast<float>(fraction) * 0x1p-24f);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}
inline __half __float2half_rn(float v) {
  const auto bits = std::bit_cast<unsigned>(v);
  const unsigned sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (v != v) return {0x7fff};
  if (size >= 0x477ff000u) return {static_cast<unsigned short>(sign | 0x7c00u)};  // from 65520 on
  if (size < 0x38800000u) {                                                       // below 2^-14
    // A sum with 0.5 leaves multiples of 2^-24 alone.
    const float sum = std::bit_cast<float>(size) + 0.5f;
    return {static_cast<unsigned short>(sign | (std::bit_cast<unsigned>(sum) - 0x3f000000u))};
  }
  const unsigned rounded = size + 0xfffu + (size >> 13 & 1);
  return {static_cast<unsigned short>(sign | ((rounded - 0x38000000u) >> 13))};
}
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
