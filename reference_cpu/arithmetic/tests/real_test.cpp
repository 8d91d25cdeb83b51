// real.hpp: what each operation does to a bound, and that the bounds hold over the whole interval.
#include "reference_cpu/arithmetic/real.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

const Precision kHalf = precision(DType::float16);

TEST(RealTest, PrecisionsAreThoseOfTheTypes) {
  EXPECT_EQ(kFloat.unit, 0x1p-24 + 0x1p-53);
  EXPECT_EQ(kBf16.unit, 0x1p-8 + 0x1p-53);
  EXPECT_EQ(kHalf.unit, 0x1p-11 + 0x1p-53);
  EXPECT_EQ(kHalf.largest, 65504.0);
  EXPECT_EQ(finer(kBf16, kFloat).unit, kFloat.unit);
}

TEST(RealTest, AnOperationAddsOneRoundingOfTheFinerPrecision) {
  const Real a{3.0, 0.5, kBf16}, b{2.0, 0.25, kFloat};
  const Real sum = a + b, product = a * b;
  EXPECT_EQ(sum.value, 5.0);
  EXPECT_EQ(sum.held.unit, kFloat.unit);
  EXPECT_DOUBLE_EQ(sum.error, 0.75 + kFloat.unit * 5.75 + kFloat.tiny);
  EXPECT_EQ(product.value, 6.0);
  EXPECT_DOUBLE_EQ(product.error, 1.875 + kFloat.unit * 7.875);  // 3 * 0.25 + 0.5 * 2 + 0.5 * 0.25
  EXPECT_EQ((a - b).value, 1.0);
  EXPECT_DOUBLE_EQ((a - b).error, 0.75 + kFloat.unit * 1.75);
}

TEST(RealTest, ExactZerosAddNothing) {
  const Real a{3.0, 0.5, kBf16}, zero = known(0.0, kBf16);
  EXPECT_EQ((a + zero).error, 0.5);
  EXPECT_EQ((zero + a).error, 0.5);
  EXPECT_EQ((a * zero).error, 0.0);
  EXPECT_EQ((zero * zero).error, 0.0);
}

TEST(RealTest, AZeroWithAnErrorStillRounds) {
  const Real maybe{0.0, 1e-7, kHalf};
  EXPECT_GT((maybe * known(1.0, kHalf)).error, 1e-7 + 0.9 * kHalf.tiny);
}

TEST(RealTest, QuotientsAreUnboundedWhereTheDivisorMayBeZero) {
  const Real a{6.0, 0.6, kDouble};
  const Real good = a / Real{3.0, 1.0, kDouble};
  EXPECT_EQ(good.value, 2.0);
  EXPECT_NEAR(good.error, (0.6 + 2.0 * 1.0) / 2.0,
              1e-14);  // (e_a + |q| e_b) / (|b| - e_b); worst is 6.6 / 2 - 2 = 1.3
  EXPECT_TRUE(std::isinf((a / Real{3.0, 3.0, kDouble}).error));
  EXPECT_NEAR((known(1.0, kFloat) / known(3.0, kFloat)).error, kFloat.unit / 3.0, 1e-20);
}

TEST(RealTest, OverflowTakesTheBoundAway) {
  const Real big = known(300.0, kHalf);
  EXPECT_TRUE(std::isinf((big * big).error));
  EXPECT_EQ((big * big).value, 90000.0);
  EXPECT_TRUE(std::isfinite((known(300.0, kBf16) * known(300.0, kBf16)).error));
  EXPECT_TRUE(std::isinf(store(known(70000.0, kFloat), kHalf).error));
  EXPECT_TRUE(std::isinf(store(known(70000.0, kBf16), kHalf).error));  // finer, but of a smaller range
  // Nothing that follows from it is bounded: it may be infinity or NaN.
  const Real lost = big * big, zero = known(0.0, kHalf);
  EXPECT_TRUE(std::isinf((lost * zero).error));
  EXPECT_TRUE(std::isinf((lost - lost).error));
  EXPECT_TRUE(std::isinf((zero / lost).error));
  EXPECT_TRUE(std::isinf(sigmoid(lost).error));
  EXPECT_TRUE(std::isinf(tanh(lost).error));
  EXPECT_TRUE(std::isinf(clamp(lost, -1.0, 1.0).error));
}

TEST(RealTest, StoringRoundsOnlyWhereItIsCoarser) {
  const Real a{1.0, 0.0, kFloat};
  EXPECT_EQ(store(a, kDouble).error, 0.0);
  EXPECT_EQ(store(a, kBf16).error, kBf16.unit + kBf16.tiny);
  EXPECT_EQ(widen(known(1.0, kBf16), kFloat).held.unit, kFloat.unit);
  EXPECT_EQ(widen(known(1.0, kDouble), kFloat).held.unit, kDouble.unit);
}

TEST(RealTest, ConstantsAreRoundedToFloatUnlessTheyFit) {
  EXPECT_EQ(constant(0.5, kBf16).error, 0.0);
  EXPECT_EQ(constant(1.702, kBf16).error, kFloat.unit * 1.702);
  EXPECT_EQ(constant(1.702, kDouble).error, 0.0);
  EXPECT_EQ((known(3.0, kBf16) * 1.0).error, 0.0);
}

TEST(RealTest, ClampsKeepTheErrorOnlyWhereTheLimitLeavesIt) {
  const Real inside_limits{3.0, 0.5, kFloat}, past{9.0, 0.5, kFloat}, near{7.2, 0.5, kFloat};
  EXPECT_EQ(clamp(inside_limits, -7.0, 7.0).error, 0.5);
  EXPECT_EQ(clamp(past, -7.0, 7.0).value, 7.0);
  EXPECT_EQ(clamp(past, -7.0, 7.0).error, 0.0);
  EXPECT_NEAR(clamp(near, -7.0, 7.0).error, 0.3, 1e-12);
  // 6.9 is not a bfloat16: implementations that compare in bfloat16 clamp to 6.90625.
  const Real limited = clamp(known(9.0, kBf16), -6.9, 6.9);
  EXPECT_EQ(limited.value, 6.9);
  EXPECT_GE(limited.error, 0.00625);
  EXPECT_EQ(clamp(known(9.0, kDouble), -6.9, 6.9).error <= 1e-14, true);
  EXPECT_EQ(relu(Real{-3.0, 0.5, kFloat}).error, 0.0);
  EXPECT_NEAR(relu(Real{-0.2, 0.5, kFloat}).error, 0.3, 1e-15);
  EXPECT_TRUE(std::isnan(clamp(known(NAN, kFloat), -7.0, 7.0).value));
}

TEST(RealTest, InsideIsOpenWhereTheErrorReachesALimit) {
  EXPECT_EQ(inside(Real{3.0, 0.5, kFloat}, -7.0, 7.0).value, 1.0);
  EXPECT_EQ(inside(Real{3.0, 0.5, kFloat}, -7.0, 7.0).error, 0.0);
  EXPECT_EQ(inside(Real{6.8, 0.5, kFloat}, -7.0, 7.0).error, 1.0);
  EXPECT_EQ(inside(Real{7.5, 0.1, kFloat}, -7.0, 7.0).value, 0.0);
  EXPECT_EQ(inside(Real{7.0, 0.0, kFloat}, -7.0, 7.0).value, 1.0);  // the limit itself is inside
  EXPECT_EQ(inside(Real{-1e30, 1.0, kFloat}, -INFINITY, 7.0).value, 1.0);
  EXPECT_EQ(inside(Real{-1e30, 1.0, kFloat}, -INFINITY, 7.0).error, 0.0);
}

/// f of every number of the interval, and f computed in float, stays within the bound.
template <typename Function, typename Exact>
void expect_bounded(Function&& function, Exact&& exact, double low, double high) {
  std::mt19937_64 bits(7);
  const auto uniform = [&] { return static_cast<double>(bits() >> 11) * 0x1p-53; };
  for (int i = 0; i < 4000; ++i) {
    const double at = static_cast<float>(low + (high - low) * uniform());
    const double error = uniform() < 0.2 ? 0.0 : std::exp2(-30.0 + 33.0 * uniform());
    const Real f = function(Real{at, error, kFloat});
    EXPECT_NEAR(f.value, exact(at), 1e-14 * (1.0 + std::abs(exact(at)))) << at;
    for (const double side : {-1.0, -0.3, 0.0, 1.0}) {
      const double shifted = exact(at + side * error);
      if (std::isnan(shifted)) continue;
      ASSERT_LE(std::abs(static_cast<double>(static_cast<float>(shifted)) - f.value), f.error)
          << at << " +- " << error;
    }
  }
}

TEST(RealTest, ElementaryFunctionsBoundTheWholeInterval) {
  expect_bounded([](Real a) { return exp(a); }, [](double x) { return std::exp(x); }, -50.0, 50.0);
  expect_bounded([](Real a) { return sigmoid(a); }, [](double x) { return 1.0 / (1.0 + std::exp(-x)); },
                 -40.0, 40.0);
  expect_bounded([](Real a) { return tanh(a); }, [](double x) { return std::tanh(x); }, -20.0, 20.0);
  expect_bounded([](Real a) { return erf(a); }, [](double x) { return std::erf(x); }, -8.0, 8.0);
  expect_bounded([](Real a) { return softplus(a); },
                 [](double x) { return x > 0.0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); },
                 -60.0, 60.0);
  expect_bounded([](Real a) { return sqrt(a); }, [](double x) { return std::sqrt(x); }, 0.0, 10.0);
}

TEST(RealTest, FunctionsOfHugeArgumentsStayFinite) {
  for (const double x : {-1e4, 1e4, -800.0, 800.0}) {
    EXPECT_TRUE(std::isfinite(sigmoid(known(x, kFloat)).error));
    EXPECT_EQ(sigmoid(known(x, kFloat)).value, x > 0 ? 1.0 : 0.0);
    EXPECT_TRUE(std::isfinite(softplus(known(x, kFloat)).value));
    EXPECT_LE(sigmoid(Real{x, 1e6, kBf16}).error, 1.01);  // values of a sigmoid are at most 1 apart
    EXPECT_LE(tanh(Real{x, 1e6, kBf16}).error, 2.02);
  }
}

TEST(RealTest, GrowthBoundsTheExponentialMinusOne) {
  for (double e = 1e-12; e < 600.0; e *= 1.7) EXPECT_GE(growth(e), std::expm1(e)) << e;
  EXPECT_EQ(growth(0.0), 0.0);
}

}  // namespace
}  // namespace moeref
