// What intermediate tensors are held in: float32, or bfloat16 with EXAMPLE_BFLOAT16. Sums are made in float
// either way.
#pragma once

#include <cstdint>
#include <cstring>

namespace example {

inline float from_bfloat16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0.0f;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

/// Round to nearest even.
inline std::uint16_t to_bfloat16(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000)
    return static_cast<std::uint16_t>((bits >> 16) | 0x40);  // NaN stays NaN
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#ifdef EXAMPLE_BFLOAT16
inline float stored(float value) { return from_bfloat16(to_bfloat16(value)); }
inline constexpr const char* kStorage = "bfloat16";
#else
inline float stored(float value) { return value; }
inline constexpr const char* kStorage = "float32";
#endif

}  // namespace example
