#include "reference_cpu/quantization/element_codec.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

namespace moeref {
namespace {

constexpr std::array kCodecs{ElementCodec::e4m3, ElementCodec::e2m1, ElementCodec::int4, ElementCodec::e8m0};

int codes_of(ElementCodec codec) { return is_packed(codec) ? 16 : 256; }

double number(ElementCodec codec, int code) { return decode(codec, static_cast<std::uint8_t>(code)); }

TEST(ElementCodec, every_code_is_the_code_of_its_number) {
  for (const ElementCodec codec : kCodecs)
    for (int code = 0; code < codes_of(codec); ++code)
      if (!std::isnan(number(codec, code))) {
        EXPECT_EQ(encode(codec, number(codec, code)), code) << static_cast<int>(codec);
      }
}

TEST(ElementCodec, e4m3_by_its_definition) {
  for (int code = 0; code < 256; ++code) {
    const int exponent = code / 8 % 16, fraction = code % 8;
    const double size =
        exponent == 0 ? fraction * 0x1p-9 : (1.0 + fraction / 8.0) * std::pow(2.0, exponent - 7);
    if (code % 128 == 127)
      EXPECT_TRUE(std::isnan(number(ElementCodec::e4m3, code)));
    else
      EXPECT_EQ(number(ElementCodec::e4m3, code), code < 128 ? size : -size) << code;
  }
  EXPECT_TRUE(std::signbit(number(ElementCodec::e4m3, 128)));
}

TEST(ElementCodec, e2m1_as_gpt_oss_lists_it) {
  const std::array values{0.0,  0.5,  1.0,  1.5,  2.0,  3.0,  4.0,  6.0,
                          -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0};
  for (int code = 0; code < 16; ++code) {
    EXPECT_EQ(number(ElementCodec::e2m1, code), values[static_cast<std::size_t>(code)]);
    EXPECT_EQ(number(ElementCodec::e2m1, 0xf0 + code), values[static_cast<std::size_t>(code)]);
  }
}

TEST(ElementCodec, int4_has_an_offset_of_8) {
  for (int code = 0; code < 16; ++code) EXPECT_EQ(number(ElementCodec::int4, code), code - 8);
}

TEST(ElementCodec, e8m0_is_a_power_of_two) {
  for (int code = 0; code < 255; ++code)
    EXPECT_EQ(number(ElementCodec::e8m0, code), std::ldexp(1.0, code - 127));
  EXPECT_TRUE(std::isnan(number(ElementCodec::e8m0, 255)));
  EXPECT_EQ(encode(ElementCodec::e8m0, 3.9), 128);  // rounds down
  EXPECT_EQ(encode(ElementCodec::e8m0, 0.0), 0);
  EXPECT_EQ(encode(ElementCodec::e8m0, INFINITY), 254);
}

/// Between two neighbours: the nearer one; half way the one with an even code.
TEST(ElementCodec, rounds_to_nearest_even) {
  for (const ElementCodec codec : {ElementCodec::e4m3, ElementCodec::e2m1, ElementCodec::int4})
    for (int code = 0; code + 1 < (codec == ElementCodec::e4m3   ? 127
                                   : codec == ElementCodec::e2m1 ? 8
                                                                 : 16);
         ++code) {
      const double low = number(codec, code), high = number(codec, code + 1), middle = (low + high) / 2.0;
      const bool odd = codec == ElementCodec::int4 ? std::fmod(std::abs(low), 2.0) != 0.0 : code % 2 == 1;
      EXPECT_EQ(encode(codec, middle), odd ? code + 1 : code) << middle;
      EXPECT_EQ(encode(codec, std::nextafter(middle, low)), code) << middle;
      EXPECT_EQ(encode(codec, std::nextafter(middle, high)), code + 1) << middle;
    }
}

TEST(ElementCodec, saturates) {
  for (const double beyond : {1e6, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(encode(ElementCodec::e4m3, beyond), 0x7e);
    EXPECT_EQ(encode(ElementCodec::e4m3, -beyond), 0xfe);
    EXPECT_EQ(encode(ElementCodec::e2m1, beyond), 7);
    EXPECT_EQ(encode(ElementCodec::e2m1, -beyond), 15);
    EXPECT_EQ(encode(ElementCodec::int4, beyond), 15);
    EXPECT_EQ(encode(ElementCodec::int4, -beyond), 0);
  }
  EXPECT_EQ(encode(ElementCodec::e4m3, 464.0), 0x7e);  // half way to where 480 would be
}

TEST(ElementCodec, nan_has_a_code_or_is_refused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(encode(ElementCodec::e4m3, nan) & 0x7f, 0x7f);
  EXPECT_EQ(encode(ElementCodec::e8m0, nan), 255);
  EXPECT_THROW(encode(ElementCodec::e2m1, nan), std::logic_error);
  EXPECT_THROW(encode(ElementCodec::int4, nan), std::logic_error);
}

}  // namespace
}  // namespace moeref
