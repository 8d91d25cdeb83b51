// capacity.hpp: which slots experts of limited capacity take, by hand; and what the gate and the layer make
// of those that are dropped.
#include "reference_cpu/components/capacity.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/verdict.hpp"
#include "reference_cpu/tests/gradient_check.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

using IdList = std::vector<std::int64_t>;

MoEConfig limited(std::int64_t capacity, CapacityOrder order, std::int64_t k = 2) {
  MoEConfig c = small_config(3, k);
  c.expert_capacity = capacity;
  c.capacity_order = order;
  return c;
}

Bounded weights_of(std::int64_t tokens, std::vector<double> values, double error = 0.0) {
  Bounded out(tokens, static_cast<std::int64_t>(values.size()) / tokens, DType::float64);
  for (std::size_t i = 0; i < values.size(); ++i)
    out.set(static_cast<std::int64_t>(i), {values[i], error, kDouble});
  return out;
}

// Three tokens, two slots each; expert 0 is asked for three times, 1 twice, 2 once.
const IdList kIds{1, 0, 0, 2, 0, 1};
const std::vector<double> kWeights{.9, .1, .4, .6, .7, .3};
const std::vector<bool> kAllReal(3, true);

IdList kept_of_three(const MoEConfig& c, const std::vector<bool>& mask = kAllReal,
                     const IdList* shown = nullptr, double error = 0.0) {
  return dispatched_ids(c, {}, kIds, weights_of(3, kWeights, error), mask, shown);
}

TEST(CapacityTest, TheFirstTokensAreKept) {
  EXPECT_EQ(kept_of_three(limited(1, CapacityOrder::token)), (IdList{1, 0, -1, 2, -1, -1}));
  EXPECT_EQ(kept_of_three(limited(2, CapacityOrder::token)), (IdList{1, 0, 0, 2, -1, 1}));
  EXPECT_EQ(kept_of_three(limited(3, CapacityOrder::token)), kIds);
}

TEST(CapacityTest, FirstChoicesAreKeptBeforeSecondOnes) {
  EXPECT_EQ(kept_of_three(limited(1, CapacityOrder::choice)), (IdList{1, -1, 0, 2, -1, -1}));
  EXPECT_EQ(kept_of_three(limited(2, CapacityOrder::choice)), (IdList{1, -1, 0, 2, 0, 1}));
}

TEST(CapacityTest, TheLargestWeightsAreKept) {
  EXPECT_EQ(kept_of_three(limited(1, CapacityOrder::weight)), (IdList{1, -1, -1, 2, 0, -1}));
  EXPECT_EQ(kept_of_three(limited(2, CapacityOrder::weight)), (IdList{1, -1, 0, 2, 0, 1}));
  const Bounded equal = weights_of(3, {.5, .5, .5, .5, .5, .5});
  EXPECT_EQ(dispatched_ids(limited(1, CapacityOrder::weight), {}, kIds, equal, kAllReal, nullptr),
            (IdList{1, 0, -1, 2, -1, -1}));
}

/// Expert choice (arXiv 2202.09368): all experts for every token, and C tokens for every expert.
TEST(CapacityTest, ExpertsChooseTokens) {
  MoEConfig c = small_config(2, 2);
  c.softmax_before_topk = true;
  c.expert_capacity = 1;
  c.capacity_order = CapacityOrder::weight;
  // Logits (3, 5), (1.5, 1), (0, -3): token 0 has expert 0's largest logit, token 2 its largest share.
  c.router_bias = true;
  const Evaluation e = evaluate(small_call(Component::gate, c,
                                           {{"inputs/x", tensor({3, 1}, {1, 0, -1})},
                                            {"params/weight", tensor({2, 1}, {1.5, 4})},
                                            {"params/bias", tensor({2}, {1.5, 1})}}));
  EXPECT_EQ(values_of(e, "outputs/indices"), (std::vector<double>{1, 0, 0, 1, 0, 1}));
  EXPECT_EQ(values_of(e, "outputs/dispatched_indices"), (std::vector<double>{1, -1, -1, -1, 0, -1}));
  EXPECT_NEAR(values_of(e, "outputs/weights")[0], 1.0 / (1.0 + std::exp(-2.0)), 1e-15);
  EXPECT_NEAR(values_of(e, "outputs/weights")[4], 1.0 / (1.0 + std::exp(-3.0)), 1e-15);
}

TEST(CapacityTest, MaskedTokensTakeNoRoomAndDropNothing) {
  for (const CapacityOrder order : {CapacityOrder::token, CapacityOrder::weight})
    EXPECT_EQ(kept_of_three(limited(1, order), {false, true, false}), kIds);
  EXPECT_EQ(kept_of_three(limited(1, CapacityOrder::token), {false, true, true}),
            (IdList{1, 0, 0, 2, -1, 1}));
}

TEST(CapacityTest, NullSlotsTakeNoRoom) {
  MoEConfig c = limited(1, CapacityOrder::token);
  c.null_slots = NullSlots::n_routed_experts;
  EXPECT_EQ(dispatched_ids(c, {}, {3, 3, 0, 3, 0, 1}, weights_of(3, kWeights), kAllReal, nullptr),
            (IdList{3, 3, 0, 3, 3, 1}));
}

TEST(CapacityTest, EachRankDropsAmongItsOwnTokens) {
  ParallelOptions two;
  two.ep_size = 2;
  two.tokens_per_rank = {1, 2};
  EXPECT_EQ(
      dispatched_ids(limited(1, CapacityOrder::token), two, kIds, weights_of(3, kWeights), kAllReal, nullptr),
      (IdList{1, 0, 0, 2, -1, 1}));
  MoEConfig share = small_config(3, 2);
  share.capacity_factor = 0.75;  // one token: 1/2, rounded up; two: 1
  EXPECT_EQ(dispatched_ids(share, two, kIds, weights_of(3, kWeights), kAllReal, nullptr),
            (IdList{1, 0, 0, 2, -1, 1}));
}

TEST(CapacityTest, IsAShareOfTheSlotsRoundedUp) {
  MoEConfig c = small_config(4, 2);
  c.capacity_factor = 1.25;
  EXPECT_EQ(c.capacity(8), 5);
  EXPECT_EQ(c.capacity(9), 6);  // 5.625
  EXPECT_EQ(c.capacity(0), 0);
  c.min_capacity = 8;
  EXPECT_EQ(c.capacity(9), 8);
  EXPECT_EQ(c.capacity(16), 10);
  c.capacity_factor = 1e300;
  EXPECT_EQ(c.capacity(16), 32);
  EXPECT_EQ(limited(7, CapacityOrder::token).capacity(1), 7);
}

/// Slots 1, 2 and 4 ask for expert 0, with the weights .1, .4 and .7.
TEST(CapacityTest, AnotherOrderIsTakenWhereTheBoundsAllowIt) {
  const MoEConfig c = limited(2, CapacityOrder::weight);
  const IdList own = kept_of_three(c), other{1, 0, -1, 2, 0, 1}, too_few{1, -1, -1, 2, 0, 1}, too_many = kIds,
               another_id{1, -1, 2, 2, 0, 1};
  EXPECT_EQ(kept_of_three(c, kAllReal, &other, .2), other);
  EXPECT_EQ(kept_of_three(c, kAllReal, &other, .1), own);
  for (const IdList& wrong : {too_few, too_many, another_id})
    EXPECT_EQ(kept_of_three(c, kAllReal, &wrong, 1.0), own);
  EXPECT_EQ(kept_of_three(limited(2, CapacityOrder::token), kAllReal, &other, 1.0),
            kept_of_three(limited(2, CapacityOrder::token)));
  const IdList masked_dropped{-1, 0, 0, 2, 0, 1};
  EXPECT_EQ(kept_of_three(c, {false, true, true}, &masked_dropped, 1.0), kIds);
}

/// Two tokens whose scores are 1/4, 1/4 and 1/2, so that both ask for experts 2 and 0.
Call two_tokens(MoEConfig c) {
  c.score_func = ScoreFunc::softmax;
  c.softmax_before_topk = c.norm_topk_prob = true;
  return small_call(
      Component::gate, c,
      {{"inputs/x", tensor({2, 1}, {1, 1})}, {"params/weight", tensor({3, 1}, {0, 0, std::log(2.0)})}});
}

void expect_numbers(const Evaluation& e, const std::string& name, const std::vector<double>& want) {
  const auto got = values_of(e, name);
  ASSERT_EQ(got.size(), want.size()) << name;
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-14) << name << " " << i;
}

TEST(CapacityTest, ADroppedSlotWeighsNothingAndIsStillLoad) {
  MoEConfig c = limited(1, CapacityOrder::choice);
  c.aux_loss_coeff = 0.5;
  const Evaluation e = evaluate(two_tokens(c));
  expect_numbers(e, "outputs/indices", {2, 0, 2, 0});
  expect_numbers(e, "outputs/dispatched_indices", {2, 0, -1, -1});
  expect_numbers(e, "outputs/weights", {2. / 3, 1. / 3, 0, 0});
  EXPECT_EQ(e.results.at("outputs/weights").bound[2], 0.0f);
  expect_numbers(e, "outputs/expert_load", {2, 0, 2});
  expect_numbers(e, "outputs/aux_loss", {3. / 4 * (2. / 2 * 2) * .5 + .25 * 3. / 4 * 2});
}

TEST(CapacityTest, WeightsMayBeDividedByWhatIsKept) {
  MoEConfig c = limited(1, CapacityOrder::token);
  c.norm_after_dropping = true;
  Call call = two_tokens(c);
  call.config["n_activated_experts"] = 3;
  call.tensors["inputs/token_mask"] = flags({true, true});
  call.config["expert_capacity"] = 2;
  expect_numbers(evaluate(call), "outputs/weights", {.5, .25, .25, .5, .25, .25});
  call.config["expert_capacity"] = 1;
  expect_numbers(evaluate(call), "outputs/weights", {.5, .25, .25, 0, 0, 0});
  call.config["enable_routing_replay"] = true;
  call.tensors["inputs/replay_indices"] = ids({2, 3}, {0, 1, 0, 2, 1, 2});
  // Of each repeated id one slot is kept; the second token keeps expert 2 alone.
  expect_numbers(evaluate(call), "outputs/dispatched_indices", {0, 1, -1, 2, -1, -1});
  expect_numbers(evaluate(call), "outputs/weights", {.5, .5, 0, 1, 0, 0});
}

TEST(CapacityTest, TheLayerLeavesDroppedSlotsOut) {
  MoEConfig c = limited(1, CapacityOrder::token, 1);
  c.expert_activation = ActivationKind::relu2;
  Call call = small_call(Component::moe, c,
                         {{"inputs/x", tensor({2, 1}, {1, 2})},
                          {"params/gate.weight", tensor({3, 1}, {1, 2, 0})},
                          {"params/experts.gate_and_up_projs", tensor({3, 1, 1}, {1, 1, 1})},
                          {"params/experts.down_projs", tensor({3, 1, 1}, {1, 3, 1})},
                          {"cotangents/y", tensor({2, 1}, {1, 1})}},
                         true);
  const Evaluation e = evaluate(call);
  expect_numbers(e, "outputs/indices", {1, 1});
  expect_numbers(e, "outputs/y", {3, 0});
  expect_numbers(e, "grads/experts.down_projs", {0, 1, 0});
  EXPECT_EQ(values_of(e, "grads/x")[1], 0.0);
  NamedTensors results;
  for (const char* name : {"outputs/y", "grads/x"})
    results[name] = tensor({2, 1}, {values_of(e, name)[0], values_of(e, name)[1]});
  const CaseVerdict verdict = judge(call, results);
  EXPECT_EQ(verdict.verdict, Verdict::fail);  // its own choices are part of the answer
  ASSERT_NE(verdict.first_failure(), nullptr);
  EXPECT_EQ(verdict.first_failure()->finding, "missing");
}

TEST(CapacityTest, GradientsAreCentralDifferences) {
  for (const ScoreFunc f : {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::softmax_with_bias})
    for (const CapacityOrder order : {CapacityOrder::token, CapacityOrder::choice, CapacityOrder::weight})
      for (const bool after : {false, true}) {
        MoEConfig c = small_config(4, 2, 3);
        c.score_func = f;
        c.norm_topk_prob = c.per_expert_scale = true;
        c.aux_loss_coeff = 0.7;
        c.capacity_factor = 0.6;
        c.capacity_order = order;
        c.norm_after_dropping = after;
        SCOPED_TRACE(std::string(name(f)) + " " + std::string(name(order)) + (after ? " after" : ""));
        const Call call = small_call(
            Component::gate, c,
            {{"inputs/x", tensor({3, 3}, {.3, -1, .8, 1.2, .4, -.7, -.2, .9, 1.1})},
             {"params/weight", tensor({4, 3}, {.5, -.3, .9, -1.1, .2, .4, .8, .7, -.6, -.1, 1.3, .2})},
             {"params/per_expert_scale", tensor({4}, {1.5, .5, .75, 2})},
             {"cotangents/weights", tensor({3, 2}, {.9, -.4, .2, 1.3, -.8, .6})}},
            true);
        const std::vector<double> got = values_of(evaluate(call), "outputs/dispatched_indices");
        EXPECT_EQ(std::ranges::count(got, -1.0), 2);
        expect_central_differences(call);
      }
}

TEST(CapacityTest, IsSaidOnce) {
  MoEConfig c = small_config(3, 2);
  c.expert_capacity = 2;
  c.capacity_factor = 1.0;
  EXPECT_EQ(error_of([&] { parse_moe_config(to_json(c)); }),
            "config field 'expert_capacity' is 2: want 0 with capacity_factor, or capacity_factor 0");
}

}  // namespace
}  // namespace moeref
