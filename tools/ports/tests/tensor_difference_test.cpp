#include "tools/ports/tensor_difference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <optional>

namespace moeref {
namespace {

TEST(TensorDifferenceTest, TheFirstOfMany) {
  Tensor a(DType::bfloat16, {3, 1000003});
  for (std::int64_t i = 0; i < a.size(); i += 1000) a.set(i, static_cast<double>(i % 128));
  EXPECT_EQ(first_difference(a, a), std::nullopt);
  Tensor b = a;
  for (const std::int64_t at : {a.size() - 1, std::int64_t{1} << 20, (std::int64_t{1} << 20) - 1}) {
    b.set(at, 5.5);
    EXPECT_EQ(first_difference(a, b), at);
  }
}

TEST(TensorDifferenceTest, ZerosHaveSignsAndNaNsAreAlike) {
  Tensor a(DType::float32, {2}), b(DType::float32, {2});
  b.set(1, -0.0);
  EXPECT_EQ(first_difference(a, b), 1);
  a.as<float>()[0] = std::nanf("1");
  b.as<float>()[0] = -std::nanf("2");
  EXPECT_EQ(first_difference(a, b), 1);
  b.set(1, 0.0);
  EXPECT_EQ(first_difference(a, b), std::nullopt);
}

TEST(TensorDifferenceTest, AnotherTypeWithTheSameValuesIsNoDifference) {
  Tensor a(DType::float32, {2}), b(DType::float64, {2});
  for (Tensor* t : {&a, &b}) t->set(1, 0.5);
  EXPECT_EQ(first_difference(a, b), std::nullopt);
  b.set(0, 1.0);
  EXPECT_EQ(first_difference(a, b), 0);
}

}  // namespace
}  // namespace moeref
