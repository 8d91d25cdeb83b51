#include "reference_cpu/quantization/quantize_activations.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref {
namespace {

Bounded row_of(std::vector<double> values, DType dtype = DType::float32, double error = 0.0) {
  Bounded out(1, static_cast<std::int64_t>(values.size()), dtype);
  std::fill(out.error.begin(), out.error.end(), error);
  out.value = std::move(values);
  return out;
}

/// 32 columns of which the first ones are these, the others 0.
Bounded group_of(std::vector<double> first, double error = 0.0) {
  first.resize(32);
  Bounded out = row_of(std::move(first));
  for (std::size_t i = 0; i < 3; ++i) out.error[i] = error;
  return out;
}

TEST(QuantizeActivations, none_is_the_rows_themselves) {
  const Bounded rows =
      quantize_activations(ActivationFormat::none, row_of({0.3, -7.7}, DType::bfloat16, 0.1));
  EXPECT_EQ(rows.value, (std::vector<double>{0.3, -7.7}));
  EXPECT_EQ(rows.error, (std::vector<double>{0.1, 0.1}));
  EXPECT_EQ(rows.dtype, DType::bfloat16);
}

/// Scales that are powers of two round nothing: a tie goes to the even code and is no matter of bounds.
TEST(QuantizeActivations, powers_of_two_decide_every_code) {
  // m = 400 in [256, 512): the scale is 1. 17 lies between 16 and 18, 19 between 18 and 20.
  const Bounded rows = quantize_activations(ActivationFormat::mxfp8, group_of({400.0, 17.0, -19.0, 0.001}));
  EXPECT_EQ(rows.value[0], 384.0);
  EXPECT_EQ(rows.value[1], 16.0);
  EXPECT_EQ(rows.value[2], -20.0);
  EXPECT_EQ(rows.value[3], 0x1p-9);  // the step of subnormal codes is 2^-9, and 0.001 past half of it
  for (const double error : rows.error) EXPECT_EQ(error, 0.0);
}

TEST(QuantizeActivations, saturates_below_and_not_above) {
  const Bounded below = quantize_activations(ActivationFormat::mxfp8, group_of({500.0}));
  EXPECT_EQ(below.value[0], 448.0);
  EXPECT_EQ(below.error[0], 0.0);
  const Bounded above = quantize_activations(ActivationFormat::mxfp8_rceil, group_of({500.0}));
  EXPECT_EQ(above.value[0], 512.0);  // 256 of scale 2; 250 lies between 240 and 256
  EXPECT_EQ(above.error[0], 0.0);
  // 448 is a code of the scale 1 itself.
  EXPECT_EQ(quantize_activations(ActivationFormat::mxfp8_rceil, group_of({448.0, 17.0})).value[1], 16.0);
}

/// 448 (1 + 2^-23) has the scale 2, or 1 where float32 rounds its quotient by 448 to 1: numbers with all bits
/// of a code are the same under both, subnormal ones are not.
TEST(QuantizeActivations, an_exponent_that_float32_may_round_is_in_the_bound) {
  const Bounded rows =
      quantize_activations(ActivationFormat::mxfp8_rceil, group_of({448.0 * (1.0 + 0x1p-23), 17.5, 0.002}));
  EXPECT_EQ(rows.value[0], 448.0);
  EXPECT_EQ(rows.error[0], 0.0);
  EXPECT_EQ(rows.value[1], 18.0);
  EXPECT_EQ(rows.error[1], 0.0);
  EXPECT_EQ(rows.value[2], 0x1p-8);
  EXPECT_EQ(rows.error[2], 0x1p-9);
}

TEST(QuantizeActivations, every_token_and_group_has_its_own_scale) {
  Bounded rows(2, 130, DType::float32);
  for (std::size_t i = 0; i < rows.count(); ++i) rows.value[i] = 3.3;
  rows.value[0] = 448.0;
  rows.value[129] = 896.0;  // in the second group, which is cut short
  const Bounded q = quantize_activations(ActivationFormat::fp8_e4m3_group128, rows);
  EXPECT_EQ(q.value[1], 3.25);
  EXPECT_EQ(q.value[128], 3.25);         // of scale 2: 1.65 is 1.625
  EXPECT_NEAR(q.value[130], 3.3, 1e-6);  // the largest of its own row
  EXPECT_LT(q.error[1], 1e-5);
  EXPECT_GT(q.error[130], 0.0);
}

/// Where an error leaves a code open the bound has the step, elsewhere the scale's error alone.
TEST(QuantizeActivations, an_error_moves_codes_where_it_reaches_a_boundary) {
  const Bounded rows = quantize_activations(ActivationFormat::mxfp8, group_of({400.0, 16.9, 16.1}, 0.2));
  EXPECT_EQ(rows.value[1], 16.0);
  EXPECT_EQ(rows.error[1], 2.0);  // 17.1 is 18
  EXPECT_EQ(rows.value[2], 16.0);
  EXPECT_EQ(rows.error[2], 0.0);
  EXPECT_EQ(rows.value[0], 384.0);
  EXPECT_EQ(rows.error[0], 32.0);  // 400 is a tie
}

TEST(QuantizeActivations, nothing_is_asked_of_groups_that_float32_does_not_hold) {
  for (const double bad : {std::nan(""), HUGE_VAL, 1e300, 1e-35}) {
    const Bounded rows =
        quantize_activations(ActivationFormat::fp8_e4m3_group128, row_of({bad, 0.0}, DType::float64));
    EXPECT_EQ(rows.error[0], HUGE_VAL) << bad;
    EXPECT_EQ(rows.error[1], HUGE_VAL) << bad;
    EXPECT_EQ(rows.value[0], 0.0) << bad;
  }
  const Bounded zeros = quantize_activations(ActivationFormat::fp8_e4m3_group128, row_of({0.0, 0.0}));
  EXPECT_EQ(zeros.error, (std::vector<double>{0.0, 0.0}));
}

/// A quantiser that is given other numbers within the rows' errors stays within the bound, at every size of
/// error; and the bound is about what that error and the step can do, not more.
TEST(QuantizeActivations, bounds_cover_the_quantiser_of_every_row_within_the_error) {
  const CounterGenerator random(3, "activations");
  std::uint64_t next = 0;
  for (const ActivationFormat format : kQuantisedActivations)
    for (const double relative : {0.0, 0x1p-24, 0x1p-9, 0x1p-6, 0.1, 0.5})
      for (int call = 0; call < 20; ++call) {
        Bounded rows(1, 64, DType::float32), moved(1, 64, DType::float32);
        for (std::size_t i = 0; i < rows.count(); ++i) {
          const double size = std::exp2(random.normal(next++) * 3.0);
          rows.value[i] = static_cast<float>(random.normal(next++) * size);
          rows.error[i] = relative * std::abs(rows.value[i]);
          const double share = static_cast<double>(static_cast<int>(i * 7 + call) % 5 - 2) / 2.0;
          moved.value[i] = static_cast<float>(rows.value[i] + 0.999 * share * rows.error[i]);
        }
        const Bounded q = quantize_activations(format, rows), other = quantize_activations(format, moved);
        for (std::size_t i = 0; i < rows.count(); ++i) {
          EXPECT_LE(std::abs(other.value[i] - q.value[i]), q.error[i] + other.error[i])
              << facts(format).name << " " << relative << " " << rows.value[i];
          EXPECT_LE(q.error[i], (3.0 * relative + 0.27) * std::abs(rows.value[i]) +
                                    0.01 * (1.0 + relative) * *std::ranges::max_element(rows.value))
              << facts(format).name << " " << relative;
        }
      }
}

}  // namespace
}  // namespace moeref
