// Probed sums: the reference's, and those of a fake MLP that adds in float or in bfloat16 in a known order.
#include "tools/judging/sum_probe.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <stdexcept>

#include "moeref/config.hpp"
#include "moeref/reference.hpp"

namespace moeref {
namespace {

const SumKind& kind(std::string_view name) {
  for (const SumKind& one : sum_kinds())
    if (one.name == name) return one;
  throw std::logic_error("no such sum");
}

float cut_off(double value) {
  const auto nearest = static_cast<float>(value);
  return std::abs(static_cast<double>(nearest)) > std::abs(value)
             ? std::bit_cast<float>(std::bit_cast<std::uint32_t>(nearest) - 1)
             : nearest;
}

/// y of the one token with x = e_0 and open gates: 64 times the rows of the down projection, summed by `add`
/// from the first or the last term on.
RunCall fake_mlp(double (*add)(double, double), bool from_the_last = false) {
  return [=](const Call& call) {
    const MLPConfig c = parse_mlp_config(call.config);
    const Tensor& down = call.tensors.at("params/down_proj.weight");
    Tensor y(DType::float32, {1, c.dim});
    for (std::int64_t d = 0; d < c.dim; ++d) {
      double sum = 0.0;
      for (std::int64_t i = 0; i < c.inter_dim; ++i)
        sum = add(sum, 64.0 * down[d * c.inter_dim + (from_the_last ? c.inter_dim - 1 - i : i)]);
      y.set(d, sum);
    }
    return NamedTensors{{"outputs/y", y}};
  };
}

double in_float(double a, double b) { return static_cast<double>(static_cast<float>(a + b)); }
double in_bfloat16(double a, double b) { return round_to(DType::bfloat16, a + b); }
double cutting_off(double a, double b) { return static_cast<double>(cut_off(a + b)); }

TEST(SumProbeTest, OrderWidthAndRoundingOfKnownSums) {
  const SumKind& mlp = kind("mlp down projection");
  const SumFindings plain = probe_sum(mlp, fake_mlp(in_float), DType::float32, 24);
  EXPECT_EQ(plain.order, "sequential") << plain.unknown;
  EXPECT_EQ(plain.bits, 24);
  EXPECT_FALSE(plain.cuts_off);
  const SumFindings last = probe_sum(mlp, fake_mlp(in_float, true), DType::bfloat16, 24);
  EXPECT_EQ(last.order, "sequential, from the last term") << last.unknown;
  const SumFindings narrow = probe_sum(mlp, fake_mlp(in_bfloat16), DType::float32, 24);
  EXPECT_EQ(narrow.bits, 8);
  EXPECT_EQ(accumulator_in_words(narrow.bits), "bfloat16 (8 bits)");
  const SumFindings cut = probe_sum(mlp, fake_mlp(cutting_off), DType::float32, 24);
  EXPECT_EQ(cut.bits, 24);
  EXPECT_TRUE(cut.cuts_off);
}

TEST(SumProbeTest, TheReferenceAddsInDoubleEverywhere) {
  CpuReference reference;
  const RunCall run = [&](const Call& call) { return reference.run(call); };
  for (const SumKind& one : sum_kinds()) {
    const SumFindings found = probe_sum(one, run, DType::float32, 16);
    EXPECT_EQ(found.unknown, "") << one.name;
    EXPECT_EQ(found.bits, 53) << one.name << ": " << found.order;
  }
}

TEST(SumProbeTest, AnExactSumHasNoOrder) {
  const RunCall exact = [](const Call& call) {
    const MLPConfig c = parse_mlp_config(call.config);
    const Tensor& down = call.tensors.at("params/down_proj.weight");
    Tensor y(DType::float32, {1, c.dim});
    for (std::int64_t d = 0; d < c.dim; ++d) {
      double ones = 0.0;
      for (std::int64_t i = 0; i < c.inter_dim; ++i) {
        const double term = down[d * c.inter_dim + i];
        ones += std::abs(term) > 1.0 ? 0.0 : term;
      }
      y.set(d, 64.0 * ones);
    }
    return NamedTensors{{"outputs/y", y}};
  };
  const SumFindings found = probe_sum(kind("mlp down projection"), exact, DType::float32, 8);
  EXPECT_NE(found.unknown, "");
  EXPECT_EQ(found.order, "");
}

TEST(SumProbeTest, APortThatRefusesIsSaid) {
  const RunCall refuses = [](const Call&) -> NamedTensors { throw std::runtime_error("no swiglu"); };
  EXPECT_EQ(probe_sum(kind("gate logits"), refuses, DType::float32, 8).unknown, "no swiglu");
}

}  // namespace
}  // namespace moeref
