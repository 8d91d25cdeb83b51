// Codes of few bits and the numbers that they stand for (OCP Microscaling Formats v1.0, 5.3; OCP FP8 v1.0).
#pragma once

#include <cstdint>

#include "moeref/weight_format.hpp"

namespace moeref {

/// The number of a code; NaN for the codes that are none. Of 4-bit codes the low four bits count.
double decode(ElementCodec codec, std::uint8_t code);

/// The code nearest to a number: ties go to the even one; what lies beyond the largest number becomes it, so
/// that infinities do. -0 and what rounds to it keep the sign where the codec has one. e8m0 rounds down to a
/// power of two, from 2^-127 on. NaN has a code in e4m3 and e8m0 alone; the others throw std::logic_error.
std::uint8_t encode(ElementCodec codec, double value);

/// 2^e with the exponent e of e4m3's code for a number, subnormal ones having that of the least normal one:
/// how tensor cores align it. 0 for 0. A product of two codes is an integer times 2^-6 of the product of
/// theirs.
double e4m3_power(double number);

/// The largest number, and the exponent of its leading bit.
double largest(ElementCodec codec);
int largest_exponent(ElementCodec codec);

}  // namespace moeref
