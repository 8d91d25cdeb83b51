// bounded.hpp: matrices with bounds, sums in any order, casts.
#include "reference_cpu/arithmetic/bounded.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

TEST(BoundedTest, LoadsExactlyInTheTensorsOwnTypeAndFinerOnes) {
  const Tensor t = tensor(DType::bfloat16, {2, 3}, {1, 2, 3, 4, 5, 6});
  const Bounded own = load(t, 3), wide = load(t, 0, 2, 3, DType::float32);
  EXPECT_TRUE(own.exact());
  EXPECT_TRUE(wide.exact());
  EXPECT_EQ(wide.dtype, DType::float32);
  EXPECT_EQ(own.rows, 2);
  EXPECT_EQ(own.value, (std::vector<double>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(load(t, 3, 1, 2).value, (std::vector<double>{4, 5}));
  EXPECT_EQ(load(Tensor(DType::float32, {0, 4}), 4).rows, 0);
}

TEST(BoundedTest, ACoarserComputeTypeHasTheErrorOfTheCast) {
  const Bounded cast_down = load(tensor(DType::float32, {1, 2}, {3.0, 0.0}), 0, 1, 2, DType::bfloat16);
  EXPECT_EQ(cast_down.error[0], kBf16.unit * 3.0 + kBf16.tiny);
  EXPECT_EQ(cast_down.error[1], 0.0);
  // float16 is finer than bfloat16 but reaches less far.
  const Bounded narrow = load(tensor(DType::bfloat16, {1, 2}, {1.0, 131072.0}), 0, 1, 2, DType::float16);
  EXPECT_GT(narrow.error[0], 0.0);
  EXPECT_TRUE(std::isinf(narrow.error[1]));
}

TEST(BoundedTest, RoundedNumbersAreExactOnes) {
  // 1 + 3/4 and ties of a last place, and what bfloat16 cannot hold.
  const double place = 0x1p-7;
  const Bounded from = load(
      tensor(DType::float32, {1, 4}, {1 + 0.75 * place, 1 + 0.5 * place, -(1 + 1.5 * place), 0x1.fffp127}),
      4);
  const Bounded to = rounded(from, DType::bfloat16);
  EXPECT_EQ(to.dtype, DType::bfloat16);
  EXPECT_EQ(to.value, (std::vector<double>{1 + place, 1, -(1 + 2 * place), 0x1.fffp127}));
  EXPECT_EQ(to.error[0] + to.error[1] + to.error[2], 0.0);
  EXPECT_TRUE(std::isinf(to.error[3]));
  EXPECT_TRUE(rounded(load(tensor(DType::bfloat16, {1, 1}, {3}), 1), DType::float32).exact());
  // By way of float32 a number just above a tie becomes the tie.
  const Bounded twice = rounded(load(tensor({1, 1}, {1 + 0.5 * place + 0x1p-40}), 1), DType::bfloat16);
  EXPECT_EQ(twice.value[0], 1 + place);
  EXPECT_EQ(twice.error[0], place);
}

TEST(BoundedTest, CastsAddToTheErrorsThatAreThere) {
  Bounded m(1, 2, DType::float32);
  m.value = {2.0, -4.0};
  m.error = {0.5, 0.0};
  const Bounded coarse = cast(m, DType::bfloat16), fine = cast(m, DType::float64);
  EXPECT_DOUBLE_EQ(coarse.error[0], 0.5 + kBf16.unit * 2.5);
  EXPECT_DOUBLE_EQ(coarse.error[1], kBf16.unit * 4.0);
  EXPECT_EQ(fine.error, m.error);
  EXPECT_EQ(fine.dtype, DType::float64);
}

TEST(BoundedTest, RowsAreTakenWithTheirErrors) {
  Bounded m(3, 2, DType::float32);
  m.value = {1, 2, 3, 4, 5, 6};
  m.error = {.1, .2, .3, .4, .5, .6};
  const Bounded picked = gather_rows(m, {2, 0, 2}), middle = rows_of(m, 1, 2);
  EXPECT_EQ(picked.value, (std::vector<double>{5, 6, 1, 2, 5, 6}));
  EXPECT_EQ(picked.error, (std::vector<double>{.5, .6, .1, .2, .5, .6}));
  EXPECT_EQ(middle.value, (std::vector<double>{3, 4}));
  EXPECT_EQ(middle.error, (std::vector<double>{.3, .4}));
}

TEST(BoundedTest, AddsAndStores) {
  Bounded a(1, 2, DType::bfloat16), b(1, 2, DType::bfloat16);
  a.value = {1, 2};
  b.value = {10, 0};
  const Bounded sum = add(a, b);
  EXPECT_EQ(sum.value, (std::vector<double>{11, 2}));
  EXPECT_DOUBLE_EQ(sum.error[0], kBf16.unit * 11.0);
  EXPECT_EQ(sum.error[1], 0.0);
  add_row(a, b);
  EXPECT_EQ(a.value, (std::vector<double>{11, 2}));
}

TEST(BoundedTest, SumRowsAccumulatesInFloatAndStores) {
  Bounded m(4, 2, DType::bfloat16);
  m.value = {1, 0, 2, 0, 3, 0, 4, 0};
  const Bounded sum = sum_rows(m, DType::bfloat16);
  EXPECT_EQ(sum.value, (std::vector<double>{10, 0}));
  const double accumulated = gamma(3, kFloat.unit) * 10.0;
  EXPECT_DOUBLE_EQ(sum.error[0], accumulated + kBf16.unit * (10.0 + accumulated));
  EXPECT_EQ(sum.error[1], 0.0);
  EXPECT_EQ(sum_rows(Bounded(0, 2, DType::float32), DType::float32).value, (std::vector<double>{0, 0}));
}

TEST(BoundedTest, SumsHoldInAnyOrder) {
  std::mt19937_64 bits(3);
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<float> terms;
    for (int i = 0; i < 9; ++i)
      terms.push_back(static_cast<float>(bits() % 2001) - 1000.0f +
                      static_cast<float>(bits() % 997) / 997.0f);
    Sum sum(kFloat);
    for (const float t : terms) sum += known(t, kFloat);
    const Real total = sum.total();
    std::shuffle(terms.begin(), terms.end(), bits);
    float computed = 0.0f;
    for (const float t : terms) computed += t;
    ASSERT_LE(std::abs(computed - total.value), total.error);
  }
}

TEST(BoundedTest, SumCountsTheTermsThatAreThereAndThoseThatComeElsewhere) {
  Sum sum(kFloat);
  sum += known(1.0, kFloat);
  sum += known(0.0, kFloat);
  EXPECT_EQ(sum.total().error, 0.0);
  EXPECT_DOUBLE_EQ(sum.total(2).error, gamma(2, kFloat.unit));
  sum += Real{-1.0, 0.25, kFloat};
  EXPECT_EQ(sum.total().value, 0.0);
  EXPECT_DOUBLE_EQ(sum.total().error, 0.25 + gamma(1, kFloat.unit) * 2.25);
  Sum both(kFloat);
  both += sum;
  both += sum;
  EXPECT_DOUBLE_EQ(both.total().error, 0.5 + gamma(3, kFloat.unit) * 4.5);
  Sum large(precision(DType::float16));
  large += known(40000.0, kFloat);
  large += known(-40000.0, kFloat);
  EXPECT_TRUE(std::isinf(large.total().error));  // 40000 + 40000 may come first
}

TEST(BoundedTest, GradientsThatMeetAreBoundedWhateverTheOrder) {
  Bounded a(1, 1, DType::bfloat16), b = a, c = a;
  a.value = {256.0};
  b.value = {-256.0};
  c.value = {1.0};
  const Bounded sum = add_in_any_order({a, b, c}, DType::bfloat16);
  EXPECT_EQ(sum.value[0], 1.0);
  EXPECT_GE(sum.error[0], 1.0);  // (256 + 1) rounds to 256 in bfloat16, and 256 - 256 is then 0
  const Bounded two = add_in_any_order({a, c}, DType::bfloat16, {1});
  EXPECT_DOUBLE_EQ(two.error[0], gamma(2, kBf16.unit) * 257.0);
  PartSum parts(sum);
  parts.add(0, two, 0);
  const Bounded whole = std::move(parts).total();
  EXPECT_EQ(whole.value[0], 258.0);
  EXPECT_DOUBLE_EQ(whole.error[0], sum.error[0] + two.error[0]);
}

TEST(BoundedTest, PartsThatOverflowInSomeOrderAreOpen) {
  Bounded first(1, 3, DType::float16), second = first, third = first;
  first.value = {40000.0, 40000.0, 20000.0};
  second.value = {40000.0, -40000.0, 20000.0};
  third.value = {0.0, 40000.0, 20000.0};
  PartSum parts(first);
  parts.add(0, second, 0);
  parts.add(0, third, 0);
  const Bounded whole = std::move(parts).total();
  EXPECT_EQ(whole.value, (std::vector<double>{80000.0, 40000.0, 60000.0}));
  EXPECT_EQ(whole.error, (std::vector<double>{INFINITY, INFINITY, 0.0}));
}

TEST(BoundedTest, GammaAndRoundUp) {
  EXPECT_EQ(gamma(0, kFloat.unit), 0.0);
  EXPECT_DOUBLE_EQ(gamma(4, 0x1p-8), 4.0 * 0x1p-8 / (1.0 - 4.0 * 0x1p-8));
  EXPECT_TRUE(std::isinf(gamma(256, 0x1p-8)));
  for (const double bound : {0.0, 1.0, 0.1, 1e-300, 3.3e38, 1e-40}) {
    EXPECT_GE(static_cast<double>(round_up(bound)), bound);
    EXPECT_LE(static_cast<double>(round_up(bound)), bound * (1.0 + 0x1p-22) + 1.5e-45);
  }
  EXPECT_TRUE(std::isinf(round_up(1e300)));
  EXPECT_TRUE(std::isinf(round_up(NAN)));
}

TEST(BoundedTest, ResultsCarryBoundsRoundedUp) {
  Bounded m(1, 2, DType::float32);
  m.value = {1, 2};
  m.error = {0.1, 0.0};
  const BoundedTensor out = to_result(m, {2});
  EXPECT_EQ(out.shape, (Shape{2}));
  EXPECT_GE(out.bound[0], 0.1);
  EXPECT_EQ(out.bound[1], 0.0f);
  EXPECT_EQ(exact_result(ids({2}, {4, -1})).value, (std::vector<double>{4, -1}));
}

}  // namespace
}  // namespace moeref
