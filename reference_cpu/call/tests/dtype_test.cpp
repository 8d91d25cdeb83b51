// dtype.hpp: every bit pattern of the 16-bit formats, and the rounding between every two neighbours.
#include "moeref/dtype.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>

#include "moeref/error.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

struct Format {
  DType dtype;
  int fraction_bits;
  int bias;
  std::uint16_t (*to)(double);
  double (*from)(std::uint16_t);

  int fraction_of(std::uint16_t bits) const { return bits & ((1 << fraction_bits) - 1); }
  int exponent_of(std::uint16_t bits) const { return (bits & 0x7fff) >> fraction_bits; }
  int top_exponent() const { return (1 << (15 - fraction_bits)) - 1; }
  bool finite(std::uint16_t bits) const { return exponent_of(bits) != top_exponent(); }
  std::uint16_t infinity() const { return static_cast<std::uint16_t>(top_exponent() << fraction_bits); }

  /// The value by the definition of IEEE 754, 3.4; the pattern of infinity continues the largest binade.
  double value_of(std::uint16_t bits) const {
    const int exponent = exponent_of(bits);
    const double significand = std::ldexp(fraction_of(bits), -fraction_bits) + (exponent == 0 ? 0.0 : 1.0);
    const double magnitude = std::ldexp(significand, (exponent == 0 ? 1 : exponent) - bias);
    return bits & 0x8000 ? -magnitude : magnitude;
  }
};

void PrintTo(const Format& format, std::ostream* out) { *out << name(format.dtype); }

class SixteenBits : public testing::TestWithParam<Format> {};

TEST_P(SixteenBits, EveryPatternHasItsValue) {
  const Format& f = GetParam();
  for (unsigned i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    if (f.finite(bits)) {
      ASSERT_EQ(f.from(bits), f.value_of(bits)) << bits;
      ASSERT_EQ(std::signbit(f.from(bits)), (bits & 0x8000) != 0) << bits;
    } else if (f.fraction_of(bits) == 0) {
      ASSERT_EQ(f.from(bits), bits & 0x8000 ? -kInf : kInf) << bits;
    } else {
      ASSERT_TRUE(std::isnan(f.from(bits))) << bits;
    }
  }
}

TEST_P(SixteenBits, EveryPatternSurvivesTheRoundTrip) {
  const Format& f = GetParam();
  for (unsigned i = 0; i <= 0xffff; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const std::uint16_t back = f.to(f.from(bits));
    if (!f.finite(bits) && f.fraction_of(bits) != 0) {
      ASSERT_FALSE(f.finite(back)) << bits;
      ASSERT_NE(f.fraction_of(back), 0) << bits;
    } else {
      ASSERT_EQ(back, bits);
      ASSERT_EQ(round_to(f.dtype, f.from(bits)), f.from(bits)) << bits;
    }
  }
}

// The midpoint of two neighbours, and the doubles beside it: rounding by way of float would get those wrong.
TEST_P(SixteenBits, RoundsToNearestAndTiesToEven) {
  const Format& f = GetParam();
  for (std::uint16_t low = 0; low < f.infinity(); ++low) {
    const auto high = static_cast<std::uint16_t>(low + 1);
    const double middle = 0.5 * (f.value_of(low) + f.value_of(high));
    const std::uint16_t even = low % 2 == 0 ? low : high;
    for (const std::uint16_t sign : {0x0000, 0x8000}) {
      const double s = sign ? -1.0 : 1.0;
      ASSERT_EQ(f.to(s * middle), sign | even) << low;
      ASSERT_EQ(f.to(s * std::nextafter(middle, 0.0)), sign | low) << low;
      ASSERT_EQ(f.to(s * std::nextafter(middle, kInf)), sign | high) << low;
      ASSERT_EQ(round_to(f.dtype, s * middle), f.from(sign | even)) << low;
      ASSERT_EQ(round_to(f.dtype, s * std::nextafter(middle, 0.0)), f.from(sign | low)) << low;
      ASSERT_EQ(round_to(f.dtype, s * std::nextafter(middle, kInf)), f.from(sign | high)) << low;
    }
  }
}

TEST_P(SixteenBits, SpecialValues) {
  const Format& f = GetParam();
  EXPECT_EQ(f.to(0.0), 0x0000);
  EXPECT_EQ(f.to(-0.0), 0x8000);
  EXPECT_EQ(f.to(std::numeric_limits<double>::denorm_min()), 0x0000);
  EXPECT_EQ(f.to(-std::numeric_limits<double>::denorm_min()), 0x8000);
  EXPECT_EQ(f.to(kInf), f.infinity());
  EXPECT_EQ(f.to(-kInf), 0x8000 | f.infinity());
  EXPECT_EQ(f.to(std::numeric_limits<double>::max()), f.infinity());
  EXPECT_TRUE(std::isnan(f.from(f.to(kNaN))));
  EXPECT_TRUE(std::isnan(round_to(f.dtype, kNaN)));
  EXPECT_EQ(round_to(f.dtype, -kInf), -kInf);
}

TEST_P(SixteenBits, UnitRoundoffIsTheLargestRelativeErrorOfANormalNumber) {
  const Format& f = GetParam();
  double largest = 0.0;
  for (std::uint16_t low = f.to(1.0); low < f.to(2.0); ++low) {
    const double middle = 0.5 * (f.from(low) + f.from(static_cast<std::uint16_t>(low + 1)));
    largest = std::max(largest, std::abs(round_to(f.dtype, middle) - middle));
  }
  EXPECT_EQ(largest, unit_roundoff(f.dtype));
}

INSTANTIATE_TEST_SUITE_P(Formats, SixteenBits,
                         testing::Values(Format{DType::bfloat16, 7, 127, to_bfloat16, from_bfloat16},
                                         Format{DType::float16, 10, 15, to_float16, from_float16}),
                         [](const auto& info) { return std::string(name(info.param.dtype)); });

TEST(RoundTo, Float32TiesToEvenAndOverflows) {
  EXPECT_EQ(round_to(DType::float32, 1.0 + 0x1p-24), 1.0);
  EXPECT_EQ(round_to(DType::float32, 1.0 + 0x3p-24), 1.0 + 0x4p-24);
  EXPECT_EQ(round_to(DType::float32, std::nextafter(1.0 + 0x1p-24, 2.0)), 1.0 + 0x1p-23);
  EXPECT_EQ(round_to(DType::float32, 0x1p-150), 0.0);
  EXPECT_EQ(round_to(DType::float32, 0x3p-150), 0x1p-148);
  EXPECT_EQ(round_to(DType::float32, 0x1.ffffffp127), kInf);
  EXPECT_EQ(round_to(DType::float32, 0x1.fffffefp127), 0x1.fffffep127);
}

TEST(RoundTo, Float64IsTheIdentity) {
  for (const double value : {0.0, -0.0, 0.1, -1e300, 5e-324, kInf})
    EXPECT_EQ(round_to(DType::float64, value), value);
}

TEST(RoundTo, IntegerTypesAreErrors) {
  for (const DType dtype : {DType::int64, DType::boolean}) EXPECT_THROW(round_to(dtype, 1.0), InputError);
}

TEST(DTypeNames, ParseInvertsName) {
  for (const DType dtype : kDTypes) {
    EXPECT_EQ(parse_dtype(name(dtype)), dtype);
    EXPECT_EQ(parse_dtype("torch." + std::string(name(dtype))), dtype);
  }
}

TEST(DTypeNames, AnUnknownNameIsQuoted) {
  for (const char* text : {"", "float", "fp32", "BFLOAT16", "torch.", "torch.torch.float32", "float32 "}) {
    try {
      parse_dtype(text);
      FAIL() << "took '" << text << "'";
    } catch (const InputError& error) {
      EXPECT_EQ(std::string(error.what()),
                "unknown dtype '" + std::string(text) +
                    "': want float64, float32, bfloat16, float16, int64, bool or uint8");
    }
  }
}

TEST(DTypeTraits, SizesAndKinds) {
  const std::int64_t sizes[] = {8, 4, 2, 2, 8, 1};
  for (std::size_t i = 0; i < std::size(kDTypes); ++i) {
    EXPECT_EQ(size_of(kDTypes[i]), sizes[i]) << name(kDTypes[i]);
    EXPECT_EQ(is_floating(kDTypes[i]), i < 4) << name(kDTypes[i]);
  }
}

TEST(DTypeTraits, UnitRoundoffAndUnderflow) {
  EXPECT_EQ(unit_roundoff(DType::float64), 0x1p-53);
  EXPECT_EQ(unit_roundoff(DType::float32), 0x1p-24);
  EXPECT_EQ(unit_roundoff(DType::bfloat16), 0x1p-8);
  EXPECT_EQ(unit_roundoff(DType::float16), 0x1p-11);
  EXPECT_EQ(unit_roundoff(DType::int64), 0.0);
  EXPECT_EQ(underflow(DType::float64), std::numeric_limits<double>::min());
  EXPECT_EQ(underflow(DType::float32), static_cast<double>(std::numeric_limits<float>::min()));
  EXPECT_EQ(underflow(DType::bfloat16), from_bfloat16(0x0080));
  EXPECT_EQ(underflow(DType::float16), from_float16(0x0001));
}

TEST(Promote, IsPyTorchs) {
  constexpr DType f64 = DType::float64, f32 = DType::float32, bf16 = DType::bfloat16, f16 = DType::float16;
  const DType floating[] = {f64, f32, bf16, f16};
  const DType want[4][4] = {
      {f64, f64, f64, f64}, {f64, f32, f32, f32}, {f64, f32, bf16, f32}, {f64, f32, f32, f16}};
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) EXPECT_EQ(promote(floating[i], floating[j]), want[i][j]) << i << ", " << j;
}

}  // namespace
}  // namespace moeref
