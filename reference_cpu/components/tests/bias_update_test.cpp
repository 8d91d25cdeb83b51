// bias_update.hpp: the sign rule, the accumulation of loads, and every documented error.
#include "reference_cpu/components/bias_update.hpp"

#include <gtest/gtest.h>

#include "moeref/error.hpp"
#include "reference_cpu/components/score_quantiles.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

MoEConfig updated(std::int64_t experts, double factor) {
  MoEConfig c = small_config(experts, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.gate_bias_update_factor = factor;
  return c;
}
std::vector<Real> zeros(std::size_t n) { return std::vector<Real>(n, known(0.0, kFloat)); }
std::vector<double> values(const std::vector<Real>& bias) {
  std::vector<double> out;
  for (const Real a : bias) out.push_back(a.value);
  return out;
}
TEST(BiasUpdateTest, MovesAgainstTheLoadByTheFactor) {
  BiasUpdate update(updated(4, 0.25), zeros(4));
  update.accumulate({10, 2, 6, 6});  // mean 6
  update.update();
  EXPECT_EQ(values(update.correction()), (std::vector<double>{-0.25, 0.25, 0.0, 0.0}));
  EXPECT_EQ(update.correction()[2].error, 0.0);  // sign(0) = 0 leaves it exactly alone
}

TEST(BiasUpdateTest, TheSizeOfTheDifferenceDoesNotMatterAndNothingIsCentred) {
  BiasUpdate update(updated(3, 0.5), zeros(3));
  update.accumulate({100, 1, 1});
  update.update();
  EXPECT_EQ(values(update.correction()), (std::vector<double>{-0.5, 0.5, 0.5}));
}

TEST(BiasUpdateTest, AMeanThatIsNoIntegerIsComparedExactly) {
  BiasUpdate update(updated(3, 0.5), zeros(3));
  update.accumulate({1, 1, 0});  // mean 2/3
  update.update();
  EXPECT_EQ(values(update.correction()), (std::vector<double>{-0.5, -0.5, 0.5}));
}

TEST(BiasUpdateTest, LoadsAddUpUntilTheUpdate) {
  BiasUpdate update(updated(2, 1.0), zeros(2));
  EXPECT_FALSE(update.cumulative_load());
  update.accumulate({3, 0});
  update.accumulate({0, 2});
  EXPECT_EQ(*update.cumulative_load(), (std::vector<std::int64_t>{3, 2}));
  update.update();
  EXPECT_FALSE(update.cumulative_load());
  EXPECT_EQ(values(update.correction()), (std::vector<double>{-1, 1}));
  update.accumulate({0, 2});
  update.update();
  EXPECT_EQ(values(update.correction()), (std::vector<double>{0, 0}));
}

TEST(BiasUpdateTest, QuantilesSetTheBiasAndKeepAShareOfIt) {
  MoEConfig c = updated(2, 1.0);
  c.bias_update_rule = BiasUpdateRule::quantile;
  c.bias_update_ema = 0.5;
  BiasUpdate update(c, {known(4.0, kFloat), known(0.0, kFloat)});
  const auto exact = [](double a, double b) { return std::vector{known(a, kFloat), known(b, kFloat)}; };
  update.accumulate({9, 0});
  update.accumulate_quantiles(exact(1.0, 2.0));
  update.accumulate_quantiles(exact(3.0, 2.0));
  update.update();  // 0.5 (4, 0) - 0.5 (2, 2) = (1, -1), whose mean is 0
  EXPECT_EQ(values(update.correction()), (std::vector<double>{1, -1}));
  update.accumulate({0, 0});
  update.update();  // no real token
  EXPECT_EQ(values(update.correction()), (std::vector<double>{1, -1}));
}

/// Two tokens, two experts, k = 1: an expert's share is one token, its quantile the second largest.
TEST(ScoreQuantilesTest, TheNextScoreAfterAnExpertsShare) {
  MoEConfig c = updated(2, 1.0);
  c.selection_scores = SelectionScores::logits;
  Bounded logits(3, 2, DType::float32);
  logits.value = {5, 1, 9, 9, 4, 3};
  const std::vector<Real> bias{known(0.0, kFloat), known(3.0, kFloat)};
  const std::vector<bool> mask{true, false, true};
  // q = (5, 4) and (4, 6): the second largest are 4 and 4, S less these (1, -3) and (0, -1).
  const auto quantiles = score_quantiles(c, {}, bias, logits, mask, 0, 3);
  EXPECT_EQ(values(*quantiles), (std::vector<double>{0, -3}));
  EXPECT_FALSE(score_quantiles(c, {}, bias, logits, mask, 1, 2));
}

/// Bounds that leave the order open move a quantile as far as the ends of the intervals go.
TEST(ScoreQuantilesTest, BoundsOfScoresAreThoseOfTheirOrder) {
  MoEConfig c = updated(2, 1.0);
  c.selection_scores = SelectionScores::logits;
  Bounded logits(2, 2, DType::float32);
  logits.value = {5, 1, 4, 1};
  logits.error = {2, 0, 0, 0};
  const std::vector<Real> none = zeros(2);
  const auto quantiles = score_quantiles(c, {}, none, logits, {true, true}, 0, 2);
  EXPECT_EQ((*quantiles)[0].value, 3.0);          // of 5 - 1 and 4 - 1 the second largest
  EXPECT_NEAR((*quantiles)[0].error, 1.0, 1e-5);  // 5 - 1 may be 2, which is the second largest then
}

TEST(BiasUpdateTest, NothingIsAccumulatedOutsideTraining) {
  BiasUpdate update(updated(2, 1.0), zeros(2));
  update.set_training(false);
  update.accumulate({3, 0});
  EXPECT_FALSE(update.cumulative_load());
}

TEST(BiasUpdateTest, StepsAreRoundedInFloat) {
  BiasUpdate update(updated(2, 0.001), zeros(2));
  for (int i = 0; i < 10; ++i) {
    update.accumulate({1, 0});
    update.update();
  }
  float step = 0.0f;
  for (int i = 0; i < 10; ++i) step += 0.001f;
  EXPECT_NEAR(update.correction()[1].value, 0.01, 1e-15);
  EXPECT_LE(std::abs(step - update.correction()[1].value), update.correction()[1].error);
  EXPECT_LT(update.correction()[1].error, 1e-8);
}

TEST(BiasUpdateTest, CentredStepsHaveTheMeanZero) {
  MoEConfig c = updated(4, 0.5);
  c.centred_bias_update = true;
  BiasUpdate update(c, zeros(4));
  update.accumulate({9, 1, 1, 1});  // steps -0.5, 0.5, 0.5, 0.5, whose mean is 0.25
  update.update();
  const double want[] = {-0.75, 0.25, 0.25, 0.25};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(update.correction()[i].value, want[i]);
}

TEST(BiasUpdateTest, DocumentedErrors) {
  MoEConfig untrained = updated(2, 1.0);
  untrained.train_gate = false;
  EXPECT_NE(error_of([&] { BiasUpdate(untrained, zeros(2)); }).find("'train_gate' is false"),
            std::string::npos);
  EXPECT_NE(error_of([&] { BiasUpdate(updated(2, 0.0), zeros(2)); }).find("'gate_bias_update_factor' is 0"),
            std::string::npos);
  BiasUpdate update(updated(2, 1.0), zeros(2));
  EXPECT_NE(error_of([&] { update.update(); }).find("without a forward since the last update"),
            std::string::npos);
  update.accumulate({1, 0});
  update.set_training(false);
  EXPECT_NE(error_of([&] { update.update(); }).find("outside training"), std::string::npos);
  update.set_training(true);
  update.update();
  EXPECT_NE(error_of([&] { update.update(); }).find("without a forward since the last update"),
            std::string::npos);
}

/// Two experts, x = (1), weights +1 and -1: every token goes to expert 0 until its bias has fallen far
/// enough.
Call feedback(std::int64_t steps, nlohmann::json options) {
  NamedTensors t{{"params/weight", tensor({2, 1}, {1, -1})},
                 {"params/e_score_correction_bias", tensor(DType::float32, {2}, {0, 0})}};
  for (std::int64_t s = 0; s < steps; ++s)
    t["inputs/x_" + std::to_string(s) + "_0"] = tensor({3, 1}, {1, 1, 1});
  options["steps"] = steps;
  return small_call(Component::bias_update, updated(2, 0.25), std::move(t), false, std::move(options));
}

TEST(BiasUpdateTest, LaterRoundsRouteWithTheNewBias) {
  // sigmoid(1) - sigmoid(-1) = 0.4621: after one update the biases differ by 0.5, and expert 1 is chosen.
  const Evaluation e = evaluate(feedback(3, nlohmann::json::object()));
  EXPECT_EQ(values_of(e, "outputs/indices_0_0"), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(values_of(e, "outputs/cumulative_expert_load_0"), (std::vector<double>{3, 0}));
  EXPECT_EQ(values_of(e, "outputs/e_score_correction_bias_0"), (std::vector<double>{-0.25, 0.25}));
  EXPECT_EQ(values_of(e, "outputs/indices_1_0"), (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(values_of(e, "outputs/e_score_correction_bias_1"), (std::vector<double>{0, 0}));
  EXPECT_EQ(values_of(e, "outputs/indices_2_0"), (std::vector<double>{0, 0, 0}));
}

TEST(BiasUpdateTest, DataParallelRanksSumTheirLoads) {
  const Evaluation one = evaluate(feedback(2, nlohmann::json::object()));
  const Evaluation two = evaluate(feedback(2, {{"dp_size", 2}, {"tokens_per_rank", {3, 0}}}));
  for (const char* name : {"outputs/cumulative_expert_load_1", "outputs/e_score_correction_bias_1"})
    EXPECT_EQ(values_of(one, name), values_of(two, name));
}

TEST(BiasUpdateTest, IsAnErrorOutsideTraining) {
  EXPECT_NE(error_of([] {
              evaluate(feedback(1, {{"training", false}}));
            }).find("'training' is false"),
            std::string::npos);
}

}  // namespace
}  // namespace moeref
