// rms_norm.hpp: rows by hand, and a root that the rows' bounds leave open.
#include "reference_cpu/components/rms_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace moeref {
namespace {

Bounded one_row(std::initializer_list<double> values, double error = 0.0) {
  Bounded out(1, static_cast<std::int64_t>(values.size()), DType::float32);
  std::int64_t i = 0;
  for (const double v : values) out.set(i++, Real{v, error, precision(DType::float32)});
  return out;
}

TEST(RMSNormTest, RowsByHand) {
  // mean(36, 0, 0, 16) + 3 = 16.
  const Bounded x = one_row({6, 0, 0, 4}), weight = one_row({2, 1, 1, 3});
  const Bounded y = rms_norm(x, weight, 3.0, 1.0, DType::float32);
  EXPECT_NEAR(y.at(0).value, 3.0, 1e-15);
  EXPECT_EQ(y.at(1).value, 0.0);
  EXPECT_EQ(y.at(1).error, 0.0);
  EXPECT_NEAR(y.at(3).value, 3.0, 1e-15);
  EXPECT_NEAR(rms_norm(x, weight, 3.0, 0.5, DType::float32).at(3).value, 1.5, 1e-15);
  // d x_i = r d_i - x_i r^3 / 4 sum_j d_j x_j with r = 1/4, d = (2, 0, 0, 3): the sum is 24.
  const RMSNormBackward back = rms_norm_backward(x, weight, 3.0, 1.0, one_row({1, 0, 0, 1}));
  EXPECT_NEAR(back.x.at(0).value, 0.5 - 6.0 / 64 * 6, 1e-15);
  EXPECT_NEAR(back.x.at(3).value, 0.75 - 4.0 / 64 * 6, 1e-15);
  EXPECT_NEAR(back.weight_rows.at(0).value, 1.5, 1e-15);
  EXPECT_NEAR(back.weight_rows.at(3).value, 1.0, 1e-15);
}

/// A row of zeros stays one, and is divided by the root of eps on the way back.
TEST(RMSNormTest, RowsOfZeros) {
  const Bounded x = one_row({0, 0}), weight = one_row({2, 1});
  EXPECT_EQ(rms_norm(x, weight, 0.25, 1.0, DType::float32).at(0).error, 0.0);
  const RMSNormBackward back = rms_norm_backward(x, weight, 0.25, 1.0, one_row({1, 1}));
  EXPECT_NEAR(back.x.at(0).value, 4.0, 1e-15);
  EXPECT_EQ(back.weight_rows.at(0).value, 0.0);
}

/// Where x may be 0 throughout its bounds, the root is between that of eps and that of the largest row.
TEST(RMSNormTest, RowsWithinBoundsOfTheirOwnSize) {
  const double eps = 0.01, error = 0.2;
  const Bounded x = one_row({0.1, -0.05}, error), weight = one_row({1, 1});
  const Bounded y = rms_norm(x, weight, eps, 1.0, DType::float32);
  for (const double a : {-0.1, 0.1, 0.3})
    for (const double b : {-0.25, 0.0, 0.15}) {
      const double root = std::sqrt((a * a + b * b) / 2 + eps);
      EXPECT_LE(std::abs(a / root - y.at(0).value), y.at(0).error);
      EXPECT_LE(std::abs(b / root - y.at(1).value), y.at(1).error);
    }
  EXPECT_LT(y.at(0).error, 4.0);  // 0.3 / sqrt(eps), and the value
  EXPECT_FALSE(rms_norm(one_row({0.1, -0.05}, INFINITY), weight, eps, 1.0, DType::float32).at(0).error <
               INFINITY);
}

}  // namespace
}  // namespace moeref
