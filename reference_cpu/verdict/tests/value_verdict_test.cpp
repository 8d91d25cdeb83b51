// value_verdict.hpp: every kind of number against every kind of bound.
#include "reference_cpu/verdict/value_verdict.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

TEST(ValueVerdictTest, IsTheDifferenceOverTheBound) {
  EXPECT_EQ(value_ratio(1.0, 2.0, 0.5), 2.0);
  EXPECT_EQ(value_ratio(2.0, 1.0, 2.0), 0.5);
  EXPECT_EQ(value_ratio(1.0, 1.0, 0.5), 0.0);
}

TEST(ValueVerdictTest, ExactValuesAllowNothing) {
  EXPECT_EQ(value_ratio(1.0, 1.0, 0.0), 0.0);
  EXPECT_EQ(value_ratio(-0.0, 0.0, 0.0), 0.0);
  EXPECT_EQ(value_ratio(1.0, 2.0, 0.0), kInf);
}

TEST(ValueVerdictTest, WithoutABoundAnythingPasses) {
  for (const double value : {0.0, 1e300, kInf, -kInf, kNaN}) EXPECT_EQ(value_ratio(value, 1.0, kInf), 0.0);
}

TEST(ValueVerdictTest, FiniteAndNotFiniteAreFar) {
  for (const double bound : {0.0, 0.1}) {
    EXPECT_EQ(value_ratio(kNaN, 1.0, bound), kInf);
    EXPECT_EQ(value_ratio(kInf, 1.0, bound), kInf);
    EXPECT_EQ(value_ratio(1.0, kInf, bound), kInf);
    EXPECT_EQ(value_ratio(1.0, kNaN, bound), kInf);
    EXPECT_EQ(value_ratio(kInf, kInf, bound), 0.0);
    EXPECT_EQ(value_ratio(-kInf, kInf, bound), kInf);
    EXPECT_EQ(value_ratio(kNaN, kInf, bound), 0.0);
    EXPECT_EQ(value_ratio(kInf, kNaN, bound), 0.0);
    EXPECT_EQ(value_ratio(kNaN, kNaN, bound), 0.0);
  }
  EXPECT_EQ(value_ratio(1.0, kInf, kInf), kInf);
}

}  // namespace
}  // namespace moeref
