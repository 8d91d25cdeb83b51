// score.hpp: every score function by hand, its gradient by central differences, and bounds under perturbed
// logits.
#include "reference_cpu/components/score.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

constexpr ScoreFunc kScoreFuncs[] = {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias,
                                     ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus};

TEST(ScoreTest, SoftmaxOfLogarithms) {
  const auto s = softmax(row({0.0, std::log(2.0), std::log(5.0)}), kDouble);
  EXPECT_NEAR(s[0].value, 0.125, 1e-15);
  EXPECT_NEAR(s[1].value, 0.25, 1e-15);
  EXPECT_NEAR(s[2].value, 0.625, 1e-15);
  for (const Real a : s) EXPECT_LT(a.error, 1e-14);
}

TEST(ScoreTest, SoftmaxOfHugeGaps) {
  const auto s = softmax(row({1e4, -1e4, 9990.0}, 0.0, kFloat), kFloat);
  EXPECT_NEAR(s[0].value, 1.0 / (1.0 + std::exp(-10.0)), 1e-15);
  EXPECT_EQ(s[1].value, 0.0);
  EXPECT_LE(s[1].error, 3e-38);
  EXPECT_TRUE(std::isfinite(s[0].error));
  // Logits known to some tens only say that scores are between 0 and 1.
  for (const Real a : softmax(row({1e4, -1e4, 9990.0}, 40.0, kBf16), kFloat)) {
    EXPECT_LE(a.error, 1.01);
    EXPECT_FALSE(std::isnan(a.error));
  }
  for (const Real a : softmax(row({1e4, -1e4}, INFINITY, kBf16), kFloat)) EXPECT_TRUE(std::isinf(a.error));
}

TEST(ScoreTest, LogitsOfAFinerTypeAreRoundedFirst) {
  // 10000 + 2^-12 is 10000 in fp32: the softmax of an fp32 implementation sees another gap than the
  // reference.
  const auto s = softmax(row({10000.0 + 0x1p-12, 10000.0}), kFloat);
  EXPECT_GT(s[0].error, std::abs(s[0].value - 0.5));
}

TEST(ScoreTest, SigmoidAndSqrtSoftplus) {
  const ScoreRule& sigmoid_rule = score_rule(ScoreFunc::sigmoid);
  EXPECT_NEAR(sigmoid_rule.scores(row({std::log(3.0), 0.0, -std::log(3.0)}), kDouble)[0].value, 0.75, 1e-15);
  EXPECT_NEAR(sigmoid_rule.scores(row({std::log(3.0), 0.0, -std::log(3.0)}), kDouble)[2].value, 0.25, 1e-15);
  const auto s = score_rule(ScoreFunc::sqrtsoftplus).scores(row({0.0, 40.0, -200.0}), kDouble);
  EXPECT_NEAR(s[0].value, std::sqrt(std::log(2.0)), 1e-15);
  EXPECT_NEAR(s[1].value, std::sqrt(40.0), 1e-14);
  EXPECT_GE(s[2].error, s[2].value);  // exp(-200) underflows in the fp32 that the documented system uses here
  EXPECT_EQ(s[0].held.unit, kFloat.unit);
}

TEST(ScoreTest, SigmoidsRunInThePrecisionAskedForWhateverTheLogitsType) {
  for (const ScoreFunc f : {ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias}) {
    const auto of = [&](Precision logits, Precision scores) {
      return score_rule(f).scores(row({0.75}, 0.0, logits), scores)[0];
    };
    // The bound is that of the score's own type: of fp32 for logits in bfloat16 and in fp64 alike.
    EXPECT_EQ(of(kBf16, kFloat).held.unit, kFloat.unit);
    EXPECT_LT(of(kBf16, kFloat).error, 1e-6);
    EXPECT_EQ(of(kDouble, kFloat).held.unit, kFloat.unit);
    EXPECT_GT(of(kDouble, kFloat).error, 1e-8);
    EXPECT_LT(of(kFloat, kDouble).error, 1e-14);
    EXPECT_GT(of(kFloat, kBf16).error, 1e-3);
  }
}

TEST(ScoreTest, TheRulesAreThoseOfTheSpecification) {
  EXPECT_EQ(facts(ScoreFunc::softmax).groups, GroupRule::none);
  EXPECT_TRUE(facts(ScoreFunc::softmax).selects_by_logits);
  EXPECT_EQ(facts(ScoreFunc::sigmoid).groups, GroupRule::max_or_top2);
  EXPECT_EQ(facts(ScoreFunc::sigmoid_with_bias).groups, GroupRule::top2_exclude);
  EXPECT_EQ(facts(ScoreFunc::softmax_with_bias).groups, GroupRule::top2_zero);
  EXPECT_EQ(facts(ScoreFunc::sqrtsoftplus).groups, GroupRule::none);
  for (const ScoreFunc f : kScoreFuncs) EXPECT_EQ(score_rule(f).kind, f);
  for (const ScoreFunc f : kScoreFuncs) EXPECT_EQ(facts(f).selects_by_logits, f == ScoreFunc::softmax);
}

TEST(ScoreTest, GradientsAreCentralDifferences) {
  const std::vector<Real> z = row({0.3, -1.2, 2.5, 0.0, -4.0}), d = row({0.7, -0.2, 1.1, -0.9, 0.4});
  const double h = 1e-6;
  for (const ScoreFunc f : kScoreFuncs) {
    const ScoreRule& rule = score_rule(f);
    const auto loss = [&](std::vector<Real> at) {
      const auto s = rule.scores(at, kDouble);
      double sum = 0.0;
      for (std::size_t i = 0; i < s.size(); ++i) sum += d[i].value * s[i].value;
      return sum;
    };
    const auto gradient = rule.gradient(z, rule.scores(z, kDouble), d);
    for (std::size_t i = 0; i < z.size(); ++i) {
      auto up = z, down = z;
      up[i].value += h;
      down[i].value -= h;
      EXPECT_NEAR(gradient[i].value, (loss(up) - loss(down)) / (2 * h), 1e-9) << name(f) << " " << i;
    }
  }
}

TEST(ScoreTest, TheGradientOfAnUnderflowedScoreIsZeroAndUnbounded) {
  const auto z = row({-1e4}, 0.0, kFloat);
  const ScoreRule& rule = score_rule(ScoreFunc::sqrtsoftplus);
  const auto d = rule.gradient(z, rule.scores(z, kFloat), row({1.0}, 0.0, kFloat));
  EXPECT_EQ(d[0].value, 0.0);
  EXPECT_TRUE(std::isinf(d[0].error));  // the documented system divides 0 by 0 there
}

TEST(ScoreTest, BoundsHoldForPerturbedLogits) {
  std::mt19937_64 bits(5);
  const auto uniform = [&] { return static_cast<double>(bits() >> 11) * 0x1p-53; };
  for (int trial = 0; trial < 3000; ++trial) {
    const ScoreRule& rule = score_rule(kScoreFuncs[trial % 5]);
    const double scale = std::exp2(-2.0 + 8.0 * uniform()), error = std::exp2(-24.0 + 26.0 * uniform());
    std::vector<Real> z, moved;
    for (int i = 0; i < 6; ++i) {
      z.push_back({scale * (2.0 * uniform() - 1.0), error, kFloat});
      moved.push_back({z.back().value + error * (uniform() < 0.5 ? -1.0 : 1.0), 0.0, kDouble});
    }
    const auto s = rule.scores(z, kFloat), other = rule.scores(moved, kDouble);
    for (std::size_t i = 0; i < s.size(); ++i)
      ASSERT_LE(std::abs(s[i].value - other[i].value), s[i].error) << name(rule.kind);
  }
}

TEST(ScoreTest, UnnormalisedScoresOrderAsTheSoftmaxDoes) {
  const auto t = unnormalised_softmax(row({1.0, 3.0, 2.0}, 0.0, kFloat), kFloat);
  EXPECT_EQ(t[1].value, 1.0);
  EXPECT_NEAR(t[0].value, std::exp(-2.0), 1e-15);
  EXPECT_LT(t[0].error, 1e-6);
}

}  // namespace
}  // namespace moeref
