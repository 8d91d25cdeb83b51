#include "reference_cpu/quantization/element_codec.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// A sign, an exponent and a significand in `bits` bits, with subnormals and without infinities.
struct SmallFloat {
  int bits, significand_bits, bias;
  int largest_code;  ///< without its sign; those above it are NaN
};
constexpr SmallFloat kE4m3{8, 3, 7, 0x7e}, kE2m1{4, 1, 1, 0x7};

double decode_float(const SmallFloat& f, std::uint8_t code) {
  const int sign_bit = 1 << (f.bits - 1), magnitude = code & (sign_bit - 1);
  if (magnitude > f.largest_code) return kNaN;
  const int exponent = magnitude >> f.significand_bits,
            fraction = magnitude & ((1 << f.significand_bits) - 1);
  const int significand = exponent == 0 ? fraction : fraction + (1 << f.significand_bits);
  const double value = std::ldexp(significand, std::max(exponent, 1) - f.bias - f.significand_bits);
  return (code & sign_bit) != 0 ? -value : value;
}

/// Codes of one sign are in the order of their numbers, so that a code's own neighbour is the next number.
std::uint8_t encode_float(const SmallFloat& f, double value) {
  const int sign = std::signbit(value) ? 1 << (f.bits - 1) : 0;
  if (std::isnan(value)) {
    if (f.largest_code + 1 == 1 << (f.bits - 1)) throw std::logic_error("this codec has no NaN");
    return static_cast<std::uint8_t>(sign | (f.largest_code + 1));
  }
  const double size = std::min(std::abs(value), decode_float(f, static_cast<std::uint8_t>(f.largest_code)));
  int exponent = 0;
  std::frexp(size, &exponent);  // size in [2^(exponent - 1), 2^exponent)
  const int field = size == 0.0 ? 1 : std::max(exponent - 1 + f.bias, 1);
  // In units of the last bit, to nearest even; a carry runs into the exponent.
  const int units = static_cast<int>(std::nearbyint(std::ldexp(size, f.bias + f.significand_bits - field)));
  const int code = ((field - 1) << f.significand_bits) + units;
  return static_cast<std::uint8_t>(sign | code);
}

double decode_e4m3(std::uint8_t code) { return decode_float(kE4m3, code); }
std::uint8_t encode_e4m3(double value) { return encode_float(kE4m3, value); }
double decode_e2m1(std::uint8_t code) { return decode_float(kE2m1, code & 0xf); }
std::uint8_t encode_e2m1(double value) { return encode_float(kE2m1, value); }
double decode_int4(std::uint8_t code) { return (code & 0xf) - 8; }
std::uint8_t encode_int4(double value) {
  if (std::isnan(value)) throw std::logic_error("this codec has no NaN");
  return static_cast<std::uint8_t>(std::nearbyint(std::clamp(value, -8.0, 7.0)) + 8.0);
}
double decode_e8m0(std::uint8_t code) { return code == 255 ? kNaN : std::ldexp(1.0, code - 127); }
std::uint8_t encode_e8m0(double value) {
  if (std::isnan(value)) return 255;
  if (!(value > 0x1p-127)) return 0;
  return static_cast<std::uint8_t>(std::min(std::isinf(value) ? 127 : std::ilogb(value), 127) + 127);
}

struct CodecRow {
  ElementCodec kind;
  double largest;
  double (*decode)(std::uint8_t);
  std::uint8_t (*encode)(double);
};
constexpr auto kCodecs = std::to_array<CodecRow>({
    {ElementCodec::e4m3, 448.0, decode_e4m3, encode_e4m3},
    {ElementCodec::e2m1, 6.0, decode_e2m1, encode_e2m1},
    {ElementCodec::int4, 7.0, decode_int4, encode_int4},
    {ElementCodec::e8m0, 0x1p127, decode_e8m0, encode_e8m0},
});
static_assert(has_row_per_enumerator<kCodecs>());

const CodecRow& row_of(ElementCodec codec) { return kCodecs[static_cast<std::size_t>(codec)]; }

}  // namespace

double decode(ElementCodec codec, std::uint8_t code) { return row_of(codec).decode(code); }
std::uint8_t encode(ElementCodec codec, double value) { return row_of(codec).encode(value); }
double e4m3_power(double number) {
  if (number == 0.0) return 0.0;
  return std::ldexp(1.0, std::max(std::ilogb(number), 1 - kE4m3.bias));
}
double largest(ElementCodec codec) { return row_of(codec).largest; }
int largest_exponent(ElementCodec codec) { return std::ilogb(largest(codec)); }

}  // namespace moeref
