// aux_loss.hpp: load, loss and gradient by hand.
#include "reference_cpu/components/aux_loss.hpp"

#include <gtest/gtest.h>

#include "moeref/error.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

using Load = std::vector<std::int64_t>;

TEST(ExpertLoad, CountsRealTokensOnce) {
  // Token 1 names expert 2 twice, token 2 is padding, token 3 leaves a slot open.
  EXPECT_EQ(expert_load({0, 1, 2, 2, 0, 1, 1, -1}, {true, true, false, true}, 4), (Load{1, 2, 1, 0}));
  EXPECT_EQ(expert_load({}, {}, 3), (Load{0, 0, 0}));
  EXPECT_EQ(expert_load({0, 1}, {false}, 2), (Load{0, 0}));
}

/// T = 4 of which 3 are real, E = 3, k = 2.
Call hand_call(bool backward) {
  MoEConfig c = small_config(3, 2);
  return small_call(
      Component::aux_loss, c,
      {{"inputs/original_scores", tensor({4, 3}, {.5, .25, .25, .1, .6, .3, .2, .2, .6, 9, 9, 9})},
       {"inputs/indices", ids({4, 2}, {0, 1, 1, 2, 2, 0, 0, 1})},
       {"inputs/token_mask", flags({true, true, true, false})}},
      backward);
}

TEST(AuxLossTest, IsTheSumOfFTimesP) {
  Call call = hand_call(false);
  const Evaluation e = evaluate(call);
  // load = 2, 2, 2 of 3 real tokens: f = 2 * 3 / (2 * 3) = 1 each; P sums to 1.
  EXPECT_EQ(values_of(e, "outputs/expert_load"), (std::vector<double>{2, 2, 2}));
  EXPECT_NEAR(values_of(e, "outputs/aux_loss")[0], 1.0, 1e-15);

  call.tensors["inputs/indices"] = ids({4, 2}, {0, 1, 0, 1, 0, 2, 0, 1});
  // load = 3, 2, 1: f = 1.5, 1, 0.5; P = 0.8/3, 1.05/3, 1.15/3.
  EXPECT_NEAR(values_of(evaluate(call), "outputs/aux_loss")[0], (1.5 * 0.8 + 1.05 + 0.5 * 1.15) / 3.0, 1e-15);
}

TEST(AuxLossTest, GradientIsFOverNForRealTokens) {
  Call call = hand_call(true);
  call.tensors["inputs/indices"] = ids({4, 2}, {0, 1, 0, 1, 0, 2, 0, 1});
  const auto d = values_of(evaluate(call), "grads/original_scores");
  for (int t = 0; t < 3; ++t) {
    EXPECT_NEAR(d[static_cast<std::size_t>(3 * t)], 0.5, 1e-15);
    EXPECT_NEAR(d[static_cast<std::size_t>(3 * t + 1)], 1.0 / 3.0, 1e-15);
    EXPECT_NEAR(d[static_cast<std::size_t>(3 * t + 2)], 0.5 / 3.0, 1e-15);
  }
  for (int i = 9; i < 12; ++i) EXPECT_EQ(d[static_cast<std::size_t>(i)], 0.0);
}

TEST(AuxLossTest, TheFactorMayLeaveOutTheSlots) {
  Call call = hand_call(true);
  call.config["aux_loss_factor"] = "experts";
  EXPECT_NEAR(values_of(evaluate(call), "outputs/aux_loss")[0], 2.0, 1e-15);
  EXPECT_NEAR(values_of(evaluate(call), "grads/original_scores")[0], 2.0 / 3.0, 1e-15);
}

TEST(AuxLossTest, OfSequencesIsTheMeanOfTheirLosses) {
  Call call = hand_call(true);
  call.config["aux_loss_sequences"] = 2;
  // {0 1, 1 2}: load 1, 2, 1 of 2 tokens, f = .75, 1.5, .75, P = .3, .425, .275; {2 0}: f = 1.5, 0, 1.5, P =
  // .2, .2, .6.
  const Evaluation e = evaluate(call);
  EXPECT_NEAR(values_of(e, "outputs/aux_loss")[0],
              (.75 * .3 + 1.5 * .425 + .75 * .275 + 1.5 * .2 + 1.5 * .6) / 2, 1e-15);
  EXPECT_EQ(values_of(e, "outputs/expert_load"), (std::vector<double>{2, 2, 2}));
  const auto d = values_of(e, "grads/original_scores");
  EXPECT_NEAR(d[1], 1.5 / 2 / 2, 1e-15);
  EXPECT_NEAR(d[6], 1.5 / 1 / 2, 1e-15);
  EXPECT_EQ(d[9], 0.0);
  call.config["aux_loss_sequences"] = 3;
  EXPECT_THROW(evaluate(call), InputError);
}

TEST(AuxLossTest, MayCountFirstChoicesAlone) {
  Call call = hand_call(true);
  call.config["aux_loss_counts"] = "first_choice";
  call.tensors["inputs/indices"] = ids({4, 2}, {0, 1, 0, 2, 2, 0, 1, 0});
  // First choices: 2, 0, 1 of 3 tokens: f = 2, 0, 1.
  for (const char* factor : {"experts_over_k", "experts"}) {
    call.config["aux_loss_factor"] = factor;
    const Evaluation e = evaluate(call);
    EXPECT_NEAR(values_of(e, "outputs/aux_loss")[0], (2 * .8 + 1.15) / 3, 1e-15);
    EXPECT_NEAR(values_of(e, "grads/original_scores")[0], 2. / 3, 1e-15);
    EXPECT_EQ(values_of(e, "outputs/expert_load"), (std::vector<double>{3, 1, 2}));
  }
}

TEST(AuxLossTest, AddsLoadsOfEarlierMicroBatches) {
  Call call = hand_call(true);
  call.config["aux_loss_accumulated"] = true;
  EXPECT_THROW(evaluate(call), InputError);  // they are an input
  call.tensors["inputs/accumulated_expert_load"] = ids({3}, {10, 2, 0});
  // 6 tokens before and 3 here; loads 12, 4, 2: f = load 3 / (2 * 9); P is of these tokens alone.
  Evaluation e = evaluate(call);
  EXPECT_NEAR(values_of(e, "outputs/aux_loss")[0], (12 * .8 + 4 * 1.05 + 2 * 1.15) / 6 / 3, 1e-15);
  EXPECT_NEAR(values_of(e, "grads/original_scores")[1], 4. / 6 / 3, 1e-15);
  EXPECT_EQ(values_of(e, "outputs/expert_load"), (std::vector<double>{2, 2, 2}));
  call.config["aux_loss_factor"] = "experts";
  EXPECT_NEAR(values_of(evaluate(call), "outputs/aux_loss")[0], (12 * .8 + 4 * 1.05 + 2 * 1.15) / 3 / 3,
              1e-15);
  call.config["aux_loss_counts"] = "first_choice";  // 12 tokens before, and first choices 0, 1, 2
  EXPECT_NEAR(values_of(evaluate(call), "outputs/aux_loss")[0], (11 * .8 + 3 * 1.05 + 1.15) * 3 / 15 / 3,
              1e-15);
  call.tensors["inputs/accumulated_expert_load"] = ids({3}, {0, 0, 0});
  call.config = hand_call(true).config;
  call.config["aux_loss_accumulated"] = true;
  EXPECT_EQ(values_of(evaluate(call), "outputs/aux_loss"),
            values_of(evaluate(hand_call(true)), "outputs/aux_loss"));
  for (const auto& wrong : {ids({3}, {1, -1, 2}), ids({3}, {1 << 23, 1 << 23, 0})}) {
    call.tensors["inputs/accumulated_expert_load"] = wrong;
    EXPECT_EQ(
        error_of([&] { evaluate(call); }),
        "dataset 'inputs/accumulated_expert_load': want counts of 0 or more that sum to less than 2^24");
  }
  call.config["aux_loss_sequences"] = 2;
  EXPECT_EQ(
      error_of([&] { evaluate(call); }),
      "config field 'aux_loss_sequences' is 2: want 1 with aux_loss_accumulated, whose loads are those of "
      "whole micro-batches");
}

TEST(AuxLossTest, OfNoRealTokenIsZero) {
  Call call = hand_call(true);
  call.tensors["inputs/token_mask"] = flags({false, false, false, false});
  const Evaluation e = evaluate(call);
  EXPECT_EQ(values_of(e, "outputs/aux_loss")[0], 0.0);
  EXPECT_EQ(e.results.at("outputs/aux_loss").bound[0], 0.0f);
  for (const double d : values_of(e, "grads/original_scores")) EXPECT_EQ(d, 0.0);
}

TEST(AuxLossTest, RanksAddTheirStatisticsFirst) {
  Bounded scores(3, 2, DType::float32);
  scores.value = {.25, .75, .5, .5, .875, .125};
  scores.error.clear();
  const std::vector<bool> mask{true, true, true};
  const AuxStatistics whole = aux_statistics(scores, mask, expert_load({1, 0, 0}, mask, 2));
  AuxStatistics parts = aux_statistics(rows_of(scores, 0, 1), {true}, expert_load({1}, {true}, 2));
  add(parts, aux_statistics(rows_of(scores, 1, 3), {true, true}, expert_load({0, 0}, {true, true}, 2)));
  EXPECT_EQ(parts.real_tokens, 3);
  EXPECT_EQ(parts.load, whole.load);
  const AuxLoss a = aux_loss(whole, 1), b = aux_loss(parts, 1);
  EXPECT_EQ(a.value.value, b.value.value);
  EXPECT_EQ(a.value.error, b.value.error);
  EXPECT_NEAR(a.value.value, 2 * 2 / 3. * (1.625 / 3) + 2 / 3. * (1.375 / 3), 1e-15);
  // Averaging the ranks' own losses would be another number.
  const AuxLoss first = aux_loss(aux_statistics(rows_of(scores, 0, 1), {true}, {0, 1}), 1);
  const AuxLoss rest = aux_loss(aux_statistics(rows_of(scores, 1, 3), {true, true}, {2, 0}), 1);
  EXPECT_GT(std::abs((first.value.value + rest.value.value) / 2 - a.value.value), 0.1);
}

TEST(AuxLossTest, GradientScales) {
  AuxLossTerms terms;
  terms.n = 4;
  terms.f = {known(2.0, precision(DType::float32))};
  EXPECT_EQ(aux_loss_gradient(terms, known(0.5, precision(DType::float32)))[0].value, 0.25);
}

}  // namespace
}  // namespace moeref
