// Sums of FP8 tensor cores (SPEC 11.1): the bounds hold for a port that makes them bit by bit and for one
// that adds up in float32, and the first is told where it does not say so.
//
// MOEREF_BOUNDS_CALLS and MOEREF_BOUNDS_TABLE are as in quantized_products_test.cpp.
#include "reference_cpu/quantization/truncated_sums.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/verdict.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/quantization/element_codec.hpp"
#include "reference_cpu/quantization/tests/quantised_operands.hpp"
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref {
namespace {

constexpr Accumulator kTruncating = Accumulator::e8m13_promoted128;

Call in_float32(Call call) {
  call.config.erase("accumulator");
  return call;
}

NamedTensors eager_results(const Call& call, std::uint64_t seed) {
  using enum eager::Order;
  const eager::PortOptions options{seed % 2 == 1,
                                   seed % 3 == 0   ? pairwise
                                   : seed % 3 == 1 ? backward
                                                   : forward,
                                   seed % 5 == 0};
  return eager::EagerPort(options).run(call);
}

CaseVerdict judged(const Call& call, const NamedTensors& results) {
  JudgeOptions judging;
  judging.ambiguity_ceiling = 1.0;
  return judge(call, results, judging);
}

class TruncatedSums : public testing::TestWithParam<std::tuple<Component, DType>> {};

TEST_P(TruncatedSums, bounds_hold_for_tensor_cores_and_for_float32) {
  const auto [component, dtype] = GetParam();
  const char* given = std::getenv("MOEREF_BOUNDS_CALLS");
  const std::uint64_t calls = given ? std::strtoull(given, nullptr, 10) : 60;
  std::map<std::string, double> worst, worst_in_float32;
  std::uint64_t told = 0, may_tell = 0;
  for (std::uint64_t seed = 0; seed < calls; ++seed) {
    const Call call = quantised_operands(component, dtype, seed, false, kTruncating);
    const NamedTensors truncated = eager_results(call, seed);
    const auto expect_pass = [&](const NamedTensors& results, std::map<std::string, double>& ratios,
                                 const char* port) {
      const CaseVerdict verdict = judged(call, results);
      for (const TensorVerdict& t : verdict.tensors) ratios[t.tensor] = std::max(ratios[t.tensor], t.ratio);
      if (const TensorVerdict* failure = verdict.first_failure())
        ADD_FAILURE() << port << " seed " << seed << " " << described(call, *failure);
    };
    expect_pass(truncated, worst, "tensor cores");
    expect_pass(eager_results(in_float32(call), seed), worst_in_float32, "float32");
    // Where situ's bounds are near, y hardly depends on h.
    if (call.config.value("expert_activation", "") == "situ") continue;
    ++may_tell;
    told += judged(in_float32(call), truncated).verdict == Verdict::fail;
  }
  // In a narrower type h, a and o round more than these sums lose.
  if (dtype == DType::float32 || dtype == DType::float64) {
    EXPECT_GE(told, may_tell * 3 / 4);
  }
  if (std::getenv("MOEREF_BOUNDS_TABLE")) {
    for (const auto& [tensor, ratio] : worst)
      std::cout << "| " << name(component) << " | " << name(dtype) << " | " << tensor << " | " << ratio
                << " | " << worst_in_float32[tensor] << " |\n";
    std::cout << "| " << name(component) << " | " << name(dtype) << " | told under float32 | " << told
              << " of " << may_tell << " |\n";
  }
}

INSTANTIATE_TEST_SUITE_P(All, TruncatedSums,
                         testing::Combine(testing::Values(Component::experts, Component::moe),
                                          testing::Values(DType::float64, DType::float32, DType::bfloat16,
                                                          DType::float16)),
                         [](const auto& info) {
                           return std::string(name(std::get<0>(info.param))) + "_" +
                                  std::string(name(std::get<1>(info.param)));
                         });

/// One row times one column, of codes with the scale 1; the first code of a group is 448.
struct OneSum {
  std::vector<double> row, column;

  /// That of tensor cores, by the eager port.
  double truncated() const {
    eager::Matrix rows(1, static_cast<std::int64_t>(row.size()), DType::float32, true);
    rows.v = row;
    Tensor codes(DType::uint8, {1, 1, rows.cols}), scales(DType::float32, {1, 1, (rows.cols + 127) / 128});
    for (std::int64_t k = 0; k < rows.cols; ++k)
      codes.set(k, encode(ElementCodec::e4m3, column[static_cast<std::size_t>(k)]));
    for (std::int64_t group = 0; group < scales.size(); ++group) scales.set(group, 1.0);
    eager::Workspace work({.fused = true});
    work.activations = ActivationFormat::fp8_e4m3_group128;
    return work.tensor_core_product(rows, {codes, scales, 0}, DType::float32).v[0];
  }
  double exact() const {
    double sum = 0.0;
    for (std::size_t k = 0; k < row.size(); ++k) sum += row[k] * column[k];
    return sum;
  }
  double bound() const {
    Bounded rows(1, static_cast<std::int64_t>(row.size()), DType::float32),
        weights(rows.cols, 1, DType::float32);
    rows.value = row;
    weights.value = column;
    CodePowers powers;
    rows = quantize_activations(ActivationFormat::fp8_e4m3_group128, rows, &powers);
    std::fill(rows.error.begin(), rows.error.end(), 0.0);  // those of scales that round
    std::vector<double> of_weights;
    for (const double weight : column) of_weights.push_back(e4m3_power(weight));
    return lost_by_truncation(facts(kTruncating), rows, powers, weights, of_weights).at(0);
  }
};

/// 448 times 1 has the power 2^8, so that 2^-5 is the last bit that is kept: 15/16 of it are lost whole, once
/// per product and instruction; two of it are kept.
TEST(TruncatedSumsTest, lose_what_lies_below_the_last_bit) {
  for (const double small : {0x1.ep-6, 0x1p-4}) {
    OneSum sum{std::vector<double>(128, small), std::vector<double>(128, 1.0)};
    for (std::size_t k = 0; k < 128; k += 32) {
      sum.row[k] = 448.0;
      sum.row[k + 1] = -448.0;
    }
    EXPECT_EQ(sum.exact(), 120.0 * small);
    EXPECT_EQ(sum.truncated(), small < 0x1p-5 ? 0.0 : sum.exact());
    // 30 products of an instruction, the sum so far and the result.
    EXPECT_GE(sum.bound(), 120.0 * 0x1p-5);
    EXPECT_LE(sum.bound(), 123.2 * 0x1p-5);
  }
}

TEST(TruncatedSumsTest, lose_nothing_where_products_have_one_power) {
  // 448 is 1.75 * 2^8, -416 is 1.625 * 2^8: products of one power differ by less than bits that are kept.
  OneSum sum{std::vector<double>(32), std::vector<double>(32, 1.0)};
  for (std::size_t k = 0; k < 32; ++k) sum.row[k] = k % 2 == 0 ? 448.0 : -416.0;
  EXPECT_EQ(sum.truncated(), sum.exact());
  EXPECT_LE(sum.bound(), 0x1.01p-13 * sum.exact());  // the result's
}

/// A row of which nothing is asked, its first number beside a weight of 0: no NaN, which comparisons take for
/// less.
TEST(TruncatedSumsTest, rows_without_a_bound_have_none) {
  Bounded rows(1, 2, DType::float32), weights(2, 1, DType::float32);
  rows.value = {1.0, 1.0};
  rows.error = {2.0, 2.0};
  weights.value = {0.0, 1.0};
  CodePowers powers;
  rows = quantize_activations(ActivationFormat::fp8_e4m3_group128, rows, &powers);
  EXPECT_EQ(lost_by_truncation(facts(kTruncating), rows, powers, weights, {0.0, 1.0}),
            std::vector<double>{INFINITY});
}

/// Codes with zeros, of all sizes and signs; the sums of 128 columns each go on to float32.
TEST(TruncatedSumsTest, bound_holds_for_random_codes) {
  const CounterGenerator random(7, "codes");
  std::uint64_t next = 0;
  double worst = 0.0;
  const auto code = [&](double spread) {
    const double number = random.normal(next), size = std::exp2(spread * random.normal(next + 1));
    next += 2;
    return decode(ElementCodec::e4m3, encode(ElementCodec::e4m3, number * size));
  };
  for (int call = 0; call < 5000; ++call) {
    const double spread = call % 7;
    OneSum sum{std::vector<double>(static_cast<std::size_t>(1 + random.uniform(next++) * 300.0)), {}};
    for (std::size_t k = 0; k < sum.row.size(); ++k) {
      sum.row[k] = k % 128 == 0 ? 448.0 : std::clamp(code(spread) * (call % 3 + 1), -448.0, 448.0);
      sum.row[k] = decode(ElementCodec::e4m3, encode(ElementCodec::e4m3, sum.row[k]));
      sum.column.push_back(code(call % 5));
      if (call % 2 == 0) sum.column[k] = std::abs(sum.column[k]) * (sum.row[k] < 0.0 ? -1.0 : 1.0);
    }
    const double off = std::abs(sum.truncated() - sum.exact());
    double magnitude = 0.0;
    for (std::size_t k = 0; k < sum.row.size(); ++k) magnitude += std::abs(sum.row[k] * sum.column[k]);
    const double bound =
        sum.bound() + gamma(static_cast<std::int64_t>(sum.row.size()), kFloat.unit) * magnitude;
    ASSERT_LE(off, bound) << "call " << call;
    if (bound > 0.0) worst = std::max(worst, off / bound);
  }
  EXPECT_GT(worst, 0.5);  // no bound of another order of magnitude
  if (std::getenv("MOEREF_BOUNDS_TABLE")) std::cout << "| worst r of random sums | " << worst << " |\n";
}

}  // namespace
}  // namespace moeref
