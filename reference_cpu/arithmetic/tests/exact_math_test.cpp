// exact_math.hpp: errors against long double, special values, and pinned digests that any compiler difference
// would change.
#include "reference_cpu/arithmetic/exact_math.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <random>
#include <string>
#include <vector>

namespace {

namespace exact = moeref::exact;
using Function = double (*)(double);
using Reference = long double (*)(long double);

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kTiny = std::numeric_limits<double>::denorm_min();

struct Case {
  const char* name;
  Function function;
  Reference reference;
  double first, last;    ///< where errors are measured
  double ulps;           ///< the documented largest error
  std::uint64_t digest;  ///< of the bits of all results on points()
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

double sine_of_turns(double u) { return exact::sin_cos_turns(u).sin; }
double cosine_of_turns(double u) { return exact::sin_cos_turns(u).cos; }
constexpr long double kTwoPi = 6.283185307179586476925286766559005768L;
// Reduced by quarters first, or the rounding of 2 pi u would count against the function.
long double sine_of_turns_reference(long double u) {
  const long double quarter = std::rint(4 * u), r = kTwoPi * (u - quarter / 4);
  const int q = static_cast<int>(quarter) & 3;
  return q == 0 ? std::sin(r) : q == 1 ? std::cos(r) : q == 2 ? -std::sin(r) : -std::cos(r);
}
long double cosine_of_turns_reference(long double u) {
  return sine_of_turns_reference(u < 0.75L ? u + 0.25L : u - 0.75L);
}

const Case kCases[] = {
    {"exp", exact::exp, std::exp, -745.2, 709.79, 0.90, 0xca25abe49626f919u},
    {"exp_near_0", exact::exp, std::exp, -2, 2, 0.90, 0x815228d10fa6cf45u},
    {"expm1", exact::expm1, std::expm1, -45, 709.79, 1.05, 0xedd9d985798d2642u},
    {"expm1_near_0", exact::expm1, std::expm1, -2, 2, 1.05, 0x71d3448ebf785131u},
    {"log", exact::log, std::log, 1e-3, 1e6, 0.85, 0x2f79678cb7e65816u},
    {"log_near_1", exact::log, std::log, 0.3, 3, 0.85, 0x8d9f673646489c90u},
    {"log_below_1", exact::log, std::log, 0x1p-53, 1, 0.85, 0xce65c1a412c32a86u},
    {"log1p", exact::log1p, std::log1p, -1 + 0x1p-52, 100, 0.90, 0xa63ee9bb30e43378u},
    {"log1p_near_0", exact::log1p, std::log1p, -0.6, 0.9, 0.90, 0xcdbcdf568079d119u},
    {"tanh", exact::tanh, std::tanh, -25, 25, 1.25, 0xaa763e7af44bc8d0u},
    {"tanh_near_0", exact::tanh, std::tanh, -1.5, 1.5, 1.25, 0x53d53b11d67f8970u},
    {"erf", exact::erf, std::erf, -7, 7, 2.05, 0x9650f967a269d8c8u},
    {"erf_near_0", exact::erf, std::erf, -2.5, 2.5, 2.05, 0xa131cf494d5deb4cu},
    {"sin", exact::sin, std::sin, -8, 8, 0.85, 0x2db0dfd4481e8b51u},
    {"cos", exact::cos, std::cos, -8, 8, 0.85, 0xbc9700244889f801u},
    {"sin_far", exact::sin, std::sin, -0x1p20, 0x1p20, 0.85, 0xbc2afa5e585cd1bdu},
    {"cos_far", exact::cos, std::cos, -0x1p20, 0x1p20, 0.85, 0x3c760f0b3acd7d5au},
    {"sin_turns", sine_of_turns, sine_of_turns_reference, 0, 1, 1.50, 0x42efc310e7aa38aau},
    {"cos_turns", cosine_of_turns, cosine_of_turns_reference, 0, 1, 1.50, 0xcfd11ac0545ff97cu},
};

/// 60,000 arguments: an even grid, random ones in between, and the range scaled down through every binade.
std::vector<double> points(const Case& c) {
  std::vector<double> out;
  std::mt19937_64 random(20240601);
  for (int i = 0; i < 20000; ++i) out.push_back(c.first + (c.last - c.first) * (i / 19999.0));
  for (int i = 0; i < 20000; ++i)
    out.push_back(c.first + (c.last - c.first) * (static_cast<double>(random() >> 11) * 0x1p-53));
  for (int i = 0; i < 20000; ++i) {
    const double x = (random() & 1 ? c.first : c.last) * (static_cast<double>(random() >> 11) * 0x1p-53);
    const double scaled = x * std::bit_cast<double>((1023 - random() % 100) << 52);
    if (scaled >= c.first && scaled <= c.last) out.push_back(scaled);
  }
  return out;
}

double error_in_ulps(double value, long double exact_value) {
  const double rounded = static_cast<double>(exact_value);
  if (rounded == 0.0 || !std::isfinite(rounded)) return value == rounded ? 0.0 : kInf;
  const double ulp = std::ldexp(1.0, std::max(std::ilogb(rounded), -1022) - 52);
  return static_cast<double>(std::abs((static_cast<long double>(value) - exact_value) / ulp));
}

std::uint64_t digest(const Case& c) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const double x : points(c))
    hash = (hash ^ std::bit_cast<std::uint64_t>(c.function(x))) * 0x100000001b3u;
  return hash;
}

class ExactMath : public testing::TestWithParam<Case> {};

TEST_P(ExactMath, StaysWithinDocumentedError) {
  double worst = 0.0, where = 0.0;
  for (const double x : points(GetParam())) {
    const double error = error_in_ulps(GetParam().function(x), GetParam().reference(x));
    if (error > worst) worst = error, where = x;
  }
  RecordProperty("largest_error_ulps", std::to_string(worst));
  EXPECT_LE(worst, GetParam().ulps) << "at " << std::hexfloat << where;
}

// The same on every compiler, optimisation level and machine. A mismatch means that this build contracts or
// reorders floating-point operations, or that the method changed; then every value drawn from a normal
// changes too.
TEST_P(ExactMath, KeepsPinnedDigest) {
  EXPECT_EQ(digest(GetParam()), GetParam().digest) << std::hex << "0x" << digest(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Functions, ExactMath, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

void expect_bits(double value, double expected) {
  EXPECT_EQ(std::bit_cast<std::uint64_t>(value), std::bit_cast<std::uint64_t>(expected))
      << value << " " << expected;
}

TEST(ExactMathSpecialValues, NanGivesTheOneNan) {
  const double signalling = std::bit_cast<double>(std::uint64_t{0xfff4000000000001u});
  for (const Function f : {exact::exp, exact::expm1, exact::log, exact::log1p, exact::tanh, exact::erf,
                           exact::sin, exact::cos, exact::sqrt})
    for (const double nan : {std::nan(""), -std::nan(""), signalling})
      EXPECT_EQ(std::bit_cast<std::uint64_t>(f(nan)), 0x7ff8000000000000u);
  for (const double outside : {-1.0, -kInf, -kTiny}) EXPECT_TRUE(std::isnan(exact::log(outside)));
  for (const double outside : {-1.0 - 0x1p-52, -2.0, -kInf}) EXPECT_TRUE(std::isnan(exact::log1p(outside)));
  for (const double outside : {kInf, -kInf, 0x1p21, -1e300})
    EXPECT_TRUE(std::isnan(exact::sin(outside) + exact::cos(outside)));
  EXPECT_TRUE(std::isnan(exact::sqrt(-1.0)));
}

TEST(ExactMathSpecialValues, Limits) {
  expect_bits(exact::exp(kInf), kInf);
  expect_bits(exact::exp(-kInf), 0.0);
  expect_bits(exact::exp(710.0), kInf);
  expect_bits(exact::exp(-746.0), 0.0);
  expect_bits(exact::exp(-745.0), kTiny);
  expect_bits(exact::exp(0.0), 1.0);
  expect_bits(exact::exp(-0.0), 1.0);
  EXPECT_LT(exact::exp(709.78), kInf);
  expect_bits(exact::expm1(kInf), kInf);
  expect_bits(exact::expm1(1e300), kInf);
  expect_bits(exact::expm1(-kInf), -1.0);
  expect_bits(exact::expm1(-50.0), -1.0);
  expect_bits(exact::log(0.0), -kInf);
  expect_bits(exact::log(-0.0), -kInf);
  expect_bits(exact::log(kInf), kInf);
  expect_bits(exact::log(1.0), 0.0);
  expect_bits(exact::log1p(-1.0), -kInf);
  expect_bits(exact::log1p(kInf), kInf);
  expect_bits(exact::tanh(kInf), 1.0);
  expect_bits(exact::tanh(-kInf), -1.0);
  expect_bits(exact::erf(kInf), 1.0);
  expect_bits(exact::erf(-kInf), -1.0);
  expect_bits(exact::erf(-0.0), -0.0);
  expect_bits(exact::cos(0.0), 1.0);
}

TEST(ExactMathSpecialValues, TinyArgumentsPassThrough) {
  for (const Function f : {exact::expm1, exact::log1p, exact::tanh, exact::sin})
    for (const double x : {0.0, -0.0, kTiny, -kTiny, 0x1p-1022, -0x1.8p-1030, 1e-200}) expect_bits(f(x), x);
}

TEST(ExactMathSpecialValues, SubnormalsAreHonoured) {
  for (const double x : {kTiny, 0x1.8p-1040, 0x1.fp-1023})
    EXPECT_LE(error_in_ulps(exact::log(x), std::log(static_cast<long double>(x))), 1);
  for (double x = -745.0; x < -708.0; x += 0.37)
    EXPECT_LE(error_in_ulps(exact::exp(x), std::exp(static_cast<long double>(x))), 1) << x;
}

}  // namespace
