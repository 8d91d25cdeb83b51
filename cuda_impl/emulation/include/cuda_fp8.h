// Codes of e4m3 of the emulated runtime: rounded to nearest even, saturating.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "cuda_runtime_api.h"

using __nv_fp8x2_storage_t = unsigned short;
enum __nv_saturation_t { __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3 };

namespace emulated {
inline unsigned e4m3_of(float v) {
  const unsigned sign = std::bit_cast<unsigned>(v) >> 24 & 0x80;
  const float size = std::fabs(v);
  if (size != size) return 0x7f;
  if (size >= 448.0f) return sign | 0x7e;
  // The exponent of the last of three bits of fraction; numbers below 2^-6 have one of -9.
  const int last = std::max(size == 0 ? -9 : std::ilogb(size) - 3, -9);
  const auto steps = static_cast<unsigned>(std::nearbyint(std::ldexp(size, -last)));  // up to 16
  return sign | (static_cast<unsigned>(last + 9) * 8 + steps);
}
}  // namespace emulated

inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return static_cast<unsigned short>(emulated::e4m3_of(v.x) | emulated::e4m3_of(v.y) << 8);
}
