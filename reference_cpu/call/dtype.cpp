#include "moeref/dtype.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "moeref/error.hpp"

namespace moeref {
namespace {

struct Traits {
  std::string_view name;
  std::int64_t size;
  double unit_roundoff;
  double underflow;
  double largest;
};

constexpr std::array<Traits, 7> kTraits{{
    {"float64", 8, 0x1p-53, 0x1p-1022, std::numeric_limits<double>::max()},
    {"float32", 4, 0x1p-24, 0x1p-126, std::numeric_limits<float>::max()},
    {"bfloat16", 2, 0x1p-8, 0x1p-126, 0x1.fep127},
    {"float16", 2, 0x1p-11, 0x1p-24, 65504.0},
    {"int64", 8, 0.0, 0.0, 0x1p63},
    {"bool", 1, 0.0, 0.0, 1.0},
    {"uint8", 1, 0.0, 0.0, 255.0},
}};

const Traits& traits(DType dtype) { return kTraits[static_cast<std::size_t>(dtype)]; }

/// Rounds to `digits` significand bits with exponents from `min_exponent` on (the exponent of the last
/// subnormal bit), to nearest even, straight from double so that nothing is rounded twice.
double round_significand(double value, int digits, int min_exponent, double most) {
  // Normal results come straight from the bits: adding just under a half of the last bit kept, and that bit
  // itself, rounds to nearest even once the bits below are dropped. A carry runs into the exponent.
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const int normal_exponent = static_cast<int>((bits >> 52) & 0x7ff) - 1022;
  if (normal_exponent - digits >= min_exponent && std::abs(value) < most / 2) {
    const int dropped = 53 - digits;
    const std::uint64_t below_half = (std::uint64_t{1} << (dropped - 1)) - 1;
    const std::uint64_t rounded = bits + below_half + ((bits >> dropped) & 1);
    return std::bit_cast<double>(rounded >> dropped << dropped);
  }
  if (!std::isfinite(value) || value == 0.0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);  // |value| in [2^(exponent-1), 2^exponent)
  const int last_bit = std::max(exponent - digits, min_exponent);
  // ldexp to units of the last bit is exact here, and nearbyint rounds to even in the default mode.
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -last_bit)), last_bit);
  return std::abs(rounded) > most ? std::copysign(std::numeric_limits<double>::infinity(), value) : rounded;
}

}  // namespace

std::string_view name(DType dtype) { return traits(dtype).name; }

DType parse_dtype(std::string_view text) {
  std::string_view bare = text;
  if (bare.starts_with("torch.")) bare.remove_prefix(6);
  for (std::size_t i = 0; i < kTraits.size(); ++i)
    if (kTraits[i].name == bare) return static_cast<DType>(i);
  throw InputError("unknown dtype '" + std::string(text) +
                   "': want float64, float32, bfloat16, float16, int64, bool or uint8");
}

std::int64_t size_of(DType dtype) { return traits(dtype).size; }
bool is_floating(DType dtype) { return traits(dtype).unit_roundoff > 0.0; }
double unit_roundoff(DType dtype) { return traits(dtype).unit_roundoff; }
double underflow(DType dtype) { return traits(dtype).underflow; }
double largest(DType dtype) { return traits(dtype).largest; }

double round_to(DType dtype, double value) {
  switch (dtype) {
    case DType::float64:
      return value;
    case DType::float32:
      return static_cast<double>(static_cast<float>(value));
    case DType::bfloat16:
      return round_significand(value, 8, -133, largest(dtype));
    case DType::float16:
      return round_significand(value, 11, -24, largest(dtype));
    case DType::int64:
    case DType::boolean:
    case DType::uint8:
      break;
  }
  throw InputError("cannot round to the integer type " + std::string(name(dtype)));
}

DType promote(DType a, DType b) {
  if (a == b) return a;
  const bool narrow = size_of(a) == 2 && size_of(b) == 2;
  if (narrow) return DType::float32;
  return unit_roundoff(a) < unit_roundoff(b) ? a : b;
}

std::uint16_t to_bfloat16(double value) {
  if (std::isnan(value)) return 0x7fc0;
  const auto rounded = static_cast<float>(round_to(DType::bfloat16, value));
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(rounded) >> 16);
}

double from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t to_float16(double value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  const double rounded = std::abs(round_to(DType::float16, value));
  if (std::isinf(rounded)) return sign | 0x7c00;
  if (rounded < 0x1p-14) return sign | static_cast<std::uint16_t>(rounded * 0x1p24);  // subnormals and zero
  int exponent = 0;
  const double fraction = std::frexp(rounded, &exponent);  // [0.5, 1)
  const auto significand = static_cast<std::uint16_t>(fraction * 0x1p11);
  return sign | static_cast<std::uint16_t>(((exponent + 14) << 10) | (significand & 0x3ff));
}

double from_float16(std::uint16_t bits) {
  const double sign = (bits & 0x8000) ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  if (exponent == 31) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

}  // namespace moeref
