// What intermediate tensors are held in: float32, or bfloat16 with EXAMPLE_BFLOAT16; and what products read
// their operands as: the numbers themselves, or with EXAMPLE_TF32 these rounded to TF32, as tensor cores do.
// Sums are made in float either way.
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

#ifdef EXAMPLE_TF32
/// Round to nearest even, 10 bits after the point; infinities and NaN as they are.
inline float operand(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = (bits + 0xfff + ((bits >> 13) & 1)) & ~std::uint32_t{0x1fff};
  bits = (bits & 0x7fffffff) < 0x7f800000 ? rounded : bits;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}
inline constexpr const char* kProducts = "tf32";
#else
inline float operand(float value) { return value; }
inline constexpr const char* kProducts = "float32";
#endif

#ifdef EXAMPLE_BFLOAT16
inline float stored(float value) { return from_bfloat16(to_bfloat16(value)); }
inline constexpr const char* kStorage = "bfloat16";
#else
inline float stored(float value) { return value; }
inline constexpr const char* kStorage = "float32";
#endif

}  // namespace example
