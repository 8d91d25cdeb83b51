// gate.hpp: logits, scores, weights and gradients of every score function by hand and by central differences.
#include "reference_cpu/components/gate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/error.hpp"
#include "reference_cpu/tests/gradient_check.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

/// One token whose x is 1: its logits are the weight.
Call gate(MoEConfig c, std::initializer_list<double> logits, NamedTensors more = {},
          nlohmann::json options = nlohmann::json::object()) {
  NamedTensors t = std::move(more);
  t["inputs/x"] = tensor({1, 1}, {1});
  t["params/weight"] = tensor({c.n_routed_experts, 1}, logits);
  return small_call(Component::gate, c, std::move(t), false, std::move(options));
}
void expect_values(const Evaluation& e, const std::string& name, std::vector<double> want) {
  const auto got = values_of(e, name);
  ASSERT_EQ(got.size(), want.size()) << name;
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-14) << name << " " << i;
}

TEST(GateTest, LogitsAreALinearLayer) {
  MoEConfig c = small_config(2, 1, 3);
  c.router_bias = true;
  const Evaluation e = evaluate(small_call(Component::gate, c,
                                           {{"inputs/x", tensor({2, 3}, {1, 2, 3, -1, 0, 1})},
                                            {"params/weight", tensor({2, 3}, {1, 1, 1, 2, 0, -1})},
                                            {"params/bias", tensor({2}, {10, 20})}}));
  expect_values(e, "stages/logits", {16, 19, 10, 17});
}

TEST(GateTest, SoftmaxAfterTopK) {
  MoEConfig c = small_config(3, 2);
  c.route_scale = 2.0;
  const Evaluation e = evaluate(gate(c, {0.0, std::log(3.0), std::log(4.0)}));
  expect_values(e, "outputs/indices", {2, 1});
  expect_values(e, "outputs/weights", {2.0 * 4 / 7, 2.0 * 3 / 7});
  expect_values(e, "stages/scores", {1. / 8, 3. / 8, 4. / 8});  // S is over all experts and never scaled
}

TEST(GateTest, SoftmaxBeforeTopK) {
  MoEConfig c = small_config(3, 2);
  c.softmax_before_topk = true;
  const Evaluation e = evaluate(gate(c, {0.0, std::log(3.0), std::log(4.0)}));
  expect_values(e, "outputs/weights", {0.5, 0.375});
  c.norm_topk_prob = true;
  const Evaluation normed = evaluate(gate(c, {0.0, std::log(3.0), std::log(4.0)}));
  expect_values(normed, "outputs/weights", {4. / 7, 3. / 7});
  expect_values(normed, "stages/scores", {1. / 8, 3. / 8, 4. / 8});
}

TEST(GateTest, SigmoidNormalisesWeightsAndScores) {
  MoEConfig c = small_config(3, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.norm_topk_prob = true;
  c.route_scale = 3.0;
  const std::initializer_list<double> z{0.0, std::log(3.0), -std::log(3.0)};  // S = 1/2, 3/4, 1/4
  expect_values(evaluate(gate(c, z)), "outputs/weights", {3.0 * 0.75 / 1.25, 3.0 * 0.5 / 1.25});
  expect_values(evaluate(gate(c, z)), "stages/scores", {1. / 3, 1. / 2, 1. / 6});
  c.n_activated_experts = 1;  // neither is normalised
  expect_values(evaluate(gate(c, z)), "outputs/weights", {2.25});
  expect_values(evaluate(gate(c, z)), "stages/scores", {0.5, 0.75, 0.25});
}

TEST(GateTest, TheCorrectionBiasChoosesButWeighsOnlyWhenAsked) {
  for (const ScoreFunc f : {ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias, ScoreFunc::softmax_with_bias,
                            ScoreFunc::sqrtsoftplus}) {
    MoEConfig c = small_config(3, 1);
    c.score_func = f;
    c.force_e_score_correction_bias = true;
    const double z = std::log(3.0);
    const NamedTensors bias{{"params/e_score_correction_bias", tensor(DType::float32, {3}, {0, 0, 8})}};
    const double s = f == ScoreFunc::softmax_with_bias ? 1.0 / (1 + 3 + 1. / 3) / 3
                     : f == ScoreFunc::sqrtsoftplus    ? std::sqrt(std::log1p(std::exp(-z)))
                                                       : 0.25;
    const Evaluation e = evaluate(gate(c, {0.0, z, -z}, bias));
    expect_values(e, "outputs/indices", {2});
    expect_values(e, "outputs/weights", {s});
    c.router_weight_uses_score_correction_bias = true;
    expect_values(evaluate(gate(c, {0.0, z, -z}, bias)), "outputs/weights",
                  {f == ScoreFunc::sigmoid ? 8.25 : s});
  }
}

TEST(GateTest, DiscardedGroupsCountAsZeroAndKeepTheirWeights) {
  MoEConfig c = small_config(4, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.n_expert_groups = 2;
  c.force_e_score_correction_bias = true;
  const double z = std::log(3.0);
  const NamedTensors bias{{"params/e_score_correction_bias", tensor(DType::float32, {4}, {0, -5, -9, -9})}};
  // q = (3/4, -4.5 | -8.5, -8.75): group 0 wins; experts 2 and 3 count as 0 and beat expert 1.
  const Evaluation e = evaluate(gate(c, {z, 0, 0, -z}, bias));
  expect_values(e, "outputs/indices", {0, 2});
  expect_values(e, "outputs/weights", {0.75, 0.5});
  c.score_func = ScoreFunc::sigmoid_with_bias;
  expect_values(evaluate(gate(c, {z, 0, 0, -z}, bias)), "outputs/indices", {0, 1});
}

TEST(GateTest, LogitsAreSelectedByWhereTheConfigSaysSo) {
  for (const ScoreFunc f : {ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias}) {
    MoEConfig c = small_config(3, 1);
    c.score_func = f;
    c.force_e_score_correction_bias = true;
    const NamedTensors bias{{"params/e_score_correction_bias", tensor(DType::float32, {3}, {0, .5, 0})}};
    // S + c = 0.99.., 1.49.., 0.99..; z + c = 40, 6.5, 41, of which sigmoids cannot tell the last from the
    // first.
    expect_values(evaluate(gate(c, {40, 6, 41}, bias)), "outputs/indices", {1});
    c.selection_scores = SelectionScores::logits;
    const Evaluation e = evaluate(gate(c, {40, 6, 41}, bias));
    expect_values(e, "outputs/indices", {2});
    expect_values(e, "outputs/weights", {1.0});
    expect_values(e, "stages/scores", {1.0, sigma(6), 1.0});
    EXPECT_FALSE(routing_of_scores(c, std::nullopt, Bounded(1, 3, DType::float32)));
  }
}

TEST(GateTest, AScalePerExpertMultipliesNormalisedWeights) {
  MoEConfig c = small_config(3, 2);
  c.per_expert_scale = c.softmax_before_topk = c.norm_topk_prob = true;
  Call call = gate(
      c, {0.0, std::log(3.0), std::log(4.0)},
      {{"params/per_expert_scale", tensor({3}, {7, 5, .5})}, {"cotangents/weights", tensor({1, 2}, {2, 1})}});
  call.backward = true;
  const Evaluation e = evaluate(call);
  expect_values(e, "outputs/weights", {.5 * 4 / 7, 5. * 3 / 7});
  expect_values(e, "stages/scores", {1. / 8, 3. / 8, 4. / 8});
  expect_values(e, "grads/per_expert_scale", {0, 3. / 7, 2. * 4 / 7});
}

TEST(GateTest, ReplayTakesGivenIdsAndLiveValues) {
  MoEConfig c = small_config(3, 2);
  const std::initializer_list<double> z{0.0, std::log(3.0), std::log(4.0)};
  const Evaluation e = evaluate(gate(c, z, {{"inputs/replay_indices", ids({1, 2}, {0, 1})}}));
  expect_values(e, "outputs/indices", {0, 1});
  expect_values(e, "outputs/weights", {1. / 4, 3. / 4});
  expect_values(e, "outputs/expert_load", {1, 1, 0});
  EXPECT_TRUE(e.routing.empty());
  EXPECT_THROW(evaluate(gate(c, z, {{"inputs/replay_indices", ids({1, 1}, {0})}})), InputError);
  EXPECT_THROW(evaluate(gate(c, z, {{"inputs/replay_indices", ids({1, 2}, {0, -1})}})), InputError);
}

TEST(GateTest, NullSlotsWeighNothingAndLeaveTheOthersAsTheyAre) {
  const std::initializer_list<double> z{0.0, std::log(3.0), std::log(4.0)};
  for (const NullSlots rule : {NullSlots::minus_one, NullSlots::n_routed_experts}) {
    MoEConfig c = small_config(3, 3);
    c.null_slots = rule;
    const double null = static_cast<double>(c.null_id());
    const NamedTensors some{{"inputs/replay_indices", ids({1, 3}, {c.null_id(), 0, 1})}};
    Evaluation e = evaluate(gate(c, z, some));
    expect_values(e, "outputs/indices", {null, 0, 1});
    expect_values(e, "outputs/weights", {0, 1. / 4, 3. / 4});  // a softmax over those that are there
    expect_values(e, "outputs/expert_load", {1, 1, 0});
    c.score_func = ScoreFunc::sigmoid;
    c.norm_topk_prob = true;
    e = evaluate(gate(c, z, some));  // S = 1/2, 3/4
    expect_values(e, "outputs/weights", {0, 0.4, 0.6});
    EXPECT_EQ(e.results.at("outputs/weights").bound[0], 0.0f);
    c.norm_eps = 0.0;  // nothing is divided by an empty sum
    const NamedTensors none{{"inputs/replay_indices", ids({1, 3}, {c.null_id(), c.null_id(), c.null_id()})}};
    expect_values(evaluate(gate(c, z, none)), "outputs/weights", {0, 0, 0});
    Call call = gate(c, z, some);
    call.tensors["cotangents/weights"] = tensor({1, 3}, {1e9, 0, 0});
    call.backward = true;
    expect_values(evaluate(call), "grads/weight", {0, 0, 0});
  }
}

TEST(GateTest, PaddingCountsNowhere) {
  MoEConfig c = small_config(2, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.aux_loss_coeff = 0.5;
  Call call = small_call(Component::gate, c,
                         {{"inputs/x", tensor({3, 1}, {1, -1, 5})},
                          {"params/weight", tensor({2, 1}, {1, -1})},
                          {"inputs/token_mask", flags({true, true, false})}});
  const Evaluation e = evaluate(call);
  expect_values(e, "outputs/expert_load", {1, 1});
  // f = 1 * 2 / (1 * 2) = 1 for both, P_i = (s(1) + s(-1)) / 2 = 1/2 for both.
  expect_values(e, "outputs/aux_loss", {1.0});
  expect_values(e, "outputs/weights", {sigma(1), sigma(1), sigma(5)});
  call.options = {{"training", false}};
  EXPECT_FALSE(evaluate(call).results.contains("outputs/aux_loss"));
}

TEST(GateTest, TheZLossIsTheMeanSquareOfLogSumExp) {
  MoEConfig c = small_config(2, 1);
  c.z_loss_coeff = 0.5;
  Call call = small_call(Component::gate, c,
                         {{"inputs/x", tensor({3, 1}, {0, 1, 50})},
                          {"params/weight", tensor({2, 1}, {std::log(3.0), 0})},
                          {"inputs/token_mask", flags({true, true, false})},
                          {"cotangents/weights", tensor({3, 1}, {0, 0, 0})}},
                         true, {{"aux_loss_backward_scale", 2.0}});
  const double two = std::log(2.0), four = std::log(4.0);  // logits 0, 0 and log 3, 0
  const Evaluation e = evaluate(call);
  expect_values(e, "outputs/z_loss", {(two * two + four * four) / 2});
  expect_values(e, "grads/weight", {four * .75, four * .25});  // 0.5 * 2 * 2 lse softmax x / 2
  EXPECT_FALSE(e.results.contains("outputs/aux_loss"));
  call.options = {{"training", false}};
  EXPECT_FALSE(evaluate(call).results.contains("outputs/z_loss"));
  expect_values(evaluate(call), "grads/weight", {0, 0});
}

TEST(GateTest, ThreeAuxiliaryLossesAddUpAtTheScores) {
  MoEConfig c = small_config(2, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.aux_loss_sequences = 2;
  const double x = std::log(3.0);  // scores of 3/4 and 1/4
  const auto gradients = [&](double sequence, double batch, double global) {
    c.aux_loss_coeff = sequence, c.batch_loss_coeff = batch, c.global_loss_coeff = global;
    Call call = small_call(Component::gate, c,
                           {{"inputs/x", tensor({4, 1}, {x, x, x, -x})},
                            {"params/weight", tensor({2, 1}, {1, -1})},
                            {"cotangents/weights", tensor({4, 1}, {0, 0, 0, 0})}},
                           true);
    if (global > 0.0) call.tensors["inputs/accumulated_expert_load"] = ids({2}, {1, 3});
    const Evaluation e = evaluate(call);
    const auto expect_loss = [&](const char* name, double coefficient, double value) {
      ASSERT_EQ(e.results.contains(name), coefficient > 0.0) << name;
      if (coefficient > 0.0) {
        EXPECT_NEAR(values_of(e, name)[0], value, 1e-15) << name;
      }
    };
    expect_loss("outputs/aux_loss", sequence, (2 * .75 + 1) / 2);      // loads 2, 0 and 1, 1 of 2 tokens
    expect_loss("outputs/batch_loss", batch, 1.5 * .625 + .5 * .375);  // loads 3, 1 of 4
    expect_loss("outputs/global_loss", global, 1);                     // loads 4, 4 of 8
    const double slope = 3.0 / 16 * x;
    const std::vector<double> by_weight = values_of(e, "grads/weight");
    EXPECT_NEAR(by_weight[0], slope * (sequence + .75 * batch + .5 * global), 1e-15);
    EXPECT_NEAR(by_weight[1], slope * (.25 * batch + .5 * global), 1e-15);
  };
  gradients(.5, 0, 0);
  gradients(0, .25, 0);
  gradients(0, 0, .125);
  gradients(.5, .25, .125);
}

TEST(GateTest, TheAuxiliaryGradientDoesNotDependOnWhatReachesTheWeights) {
  MoEConfig c = small_config(2, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.aux_loss_coeff = 0.5;
  const auto gradient = [&](double cotangent, double scale) {
    Call call = gate(c, {1, -1}, {{"cotangents/weights", tensor({1, 1}, {cotangent})}},
                     {{"aux_loss_backward_scale", scale}});
    call.backward = true;
    return values_of(evaluate(call), "grads/weight");
  };
  // f_0 = 1 * 2 / 1 = 2, n = 1: dS_0 = coeff * scale * 2; slope of the sigmoid s (1 - s).
  const double slope = sigma(1) * sigma(-1);
  EXPECT_NEAR(gradient(0.0, 1.0)[0], 0.5 * 2 * slope, 1e-15);
  EXPECT_NEAR(gradient(-7.0, 1.0)[0], (0.5 * 2 - 7.0) * slope, 1e-14);
  EXPECT_NEAR(gradient(-7.0, 4.0)[0], (0.5 * 4 * 2 - 7.0) * slope, 1e-14);
  EXPECT_EQ(gradient(-7.0, 4.0)[1], 0.0);
}

TEST(GateTest, AMaskedTokenWhoseScoresSumToZeroIsOpen) {
  MoEConfig c = small_config(2, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.norm_topk_prob = true;
  c.aux_loss_coeff = 0.5;
  Call call = small_call(Component::gate, c,
                         {{"inputs/x", tensor({2, 1}, {1, -1e6})},
                          {"params/weight", tensor({2, 1}, {1, 2})},
                          {"inputs/token_mask", flags({true, false})},
                          {"cotangents/weights", tensor({2, 2}, {1, 2, 0, 0})}},
                         true);
  EXPECT_EQ(evaluate(call).results.at("grads/x").bound[1], 0.0f);  // 1e-20 divides
  call.config["norm_eps"] = 0.0;
  const BoundedTensor d = evaluate(call).results.at("grads/x");
  EXPECT_EQ(d.value[1], 0.0);
  EXPECT_EQ(d.bound[1], INFINITY);
  EXPECT_LT(d.bound[0], 1e-5f);
}

TEST(GateTest, AnUntrainedGateHasNoParameterGradients) {
  MoEConfig c = small_config(2, 1);
  c.train_gate = false;
  Call call = gate(c, {1, -1}, {{"cotangents/weights", tensor({1, 1}, {1})}});
  call.backward = true;
  const Evaluation e = evaluate(call);
  EXPECT_TRUE(e.results.contains("grads/x"));
  EXPECT_FALSE(e.results.contains("grads/weight"));
}

TEST(GateTest, AnEmptyCall) {
  MoEConfig c = small_config(2, 1);
  c.aux_loss_coeff = 1.0;
  const Evaluation e = evaluate(
      small_call(Component::gate, c,
                 {{"inputs/x", Tensor(DType::float64, {0, 1})}, {"params/weight", tensor({2, 1}, {1, 2})}}));
  expect_values(e, "outputs/expert_load", {0, 0});
  expect_values(e, "outputs/aux_loss", {0});
}

TEST(GateTest, PrecisionOfTheGate) {
  // A float64 x under an fp32 gate is rounded on its way in: its logits are only known to fp32.
  MoEConfig c = small_config(2, 1);
  Call call = gate(c, {0.1, 0.2}, {}, {{"gate_precision", "float32"}});
  call.tensors["inputs/x"] = tensor({1, 1}, {1.0 + 1e-9});
  EXPECT_GT(evaluate(call).results.at("stages/logits").bound[0], 1e-10f);
  call.options = {{"gate_precision", "float64"}};
  EXPECT_LT(evaluate(call).results.at("stages/logits").bound[0], 1e-15f);
}

TEST(GateTest, ScoresAreFloat32UnlessThePrecisionSaysOtherwise) {
  MoEConfig c = small_config(2, 1);
  const auto scores = [&](DType dtype, nlohmann::json options) {
    c.dtype = dtype;
    Call call = gate(c, {1, -1}, {}, std::move(options));
    for (auto& [name, tensor] : call.tensors) tensor = tensor.cast(dtype);
    return evaluate(call).results.at("stages/scores");
  };
  for (const ScoreFunc f : {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias,
                            ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus}) {
    c.score_func = f;
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16, DType::float16})
      EXPECT_EQ(scores(dtype, nlohmann::json::object()).dtype, DType::float32) << name(f);
    c.router_weights_fp32 = true;  // or they are cast to x's type
    for (const DType dtype : {DType::float64, DType::bfloat16})
      EXPECT_EQ(scores(DType::float32, {{"gate_precision", name(dtype)}}).dtype,
                f == ScoreFunc::sqrtsoftplus ? DType::float32 : dtype)
          << name(f);
    c.router_weights_fp32 = false;
  }
  // Exact logits: the score of a float64 layer is known to fp32, that of a bfloat16 layer as well.
  c.score_func = ScoreFunc::sigmoid;
  EXPECT_GT(scores(DType::float64, nlohmann::json::object()).bound[0], 1e-8f);
  c.router_weights_fp32 = true;
  EXPECT_LT(scores(DType::float64, {{"gate_precision", "float64"}}).bound[0], 1e-15f);
}

TEST(GateTest, AStoredTypeOfItsOwnIsThatOfItsGradients) {
  MoEConfig c = small_config(2, 1);
  c.dtype = DType::bfloat16;
  c.gate_dtype = DType::float32;
  c.router_bias = true;
  Call call{Component::gate, to_json(c), nlohmann::json::object(), {}, true};
  call.tensors["inputs/x"] = tensor(DType::bfloat16, {1, 1}, {1});
  call.tensors["params/weight"] = tensor(DType::float32, {2, 1}, {1.0 + 0x1p-10, 2});
  call.tensors["params/bias"] = tensor(DType::float32, {2}, {0, 0});
  call.tensors["cotangents/weights"] = tensor(DType::bfloat16, {1, 1}, {1});
  const Evaluation e = evaluate(call);
  EXPECT_EQ(e.results.at("grads/weight").dtype, DType::float32);
  EXPECT_EQ(e.results.at("grads/bias").dtype, DType::float32);
  EXPECT_EQ(e.results.at("grads/x").dtype, DType::bfloat16);
  // The product takes the weight in x's type, to which 1 + 2^-10 rounds, or in gate_precision.
  EXPECT_GE(e.results.at("stages/logits").bound[0], 0x1p-10f);
  call.options = {{"gate_precision", "float32"}};
  EXPECT_LE(evaluate(call).results.at("stages/logits").bound[0], 0x1p-20f);
}

TEST(GateTest, GradientsAreCentralDifferences) {
  int checked = 0;
  for (const ScoreFunc f : {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias,
                            ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus})
    for (const bool norm : {false, true})
      for (const bool before : {false, true}) {
        if (before && f != ScoreFunc::softmax) continue;
        MoEConfig c = small_config(4, 2, 3);
        c.score_func = f;
        c.softmax_before_topk = before;
        c.norm_topk_prob = norm;
        c.route_scale = 1.5;
        c.aux_loss_coeff = 0.7;
        if (norm) {
          c.z_loss_coeff = 0.3;
          if (f == ScoreFunc::sigmoid) c.logit_cap = 2.0;
          c.aux_loss_factor = AuxLossFactor::experts;
          c.aux_loss_sequences = 3;
          c.batch_loss_coeff = 0.4;
          c.global_loss_coeff = 0.9;
        } else {
          c.batch_loss_coeff = before ? 0.6 : 0.0;
          c.aux_loss_counts = AuxLossCounts::first_choice;
          c.aux_loss_accumulated = true;
        }
        c.router_bias = true;
        c.force_e_score_correction_bias = c.router_weight_uses_score_correction_bias =
            f != ScoreFunc::softmax;
        Call call = small_call(
            Component::gate, c,
            {{"inputs/x", tensor({3, 3}, {.3, -1, .8, 1.2, .4, -.7, -.2, .9, 1.1})},
             {"params/weight", tensor({4, 3}, {.5, -.3, .9, -1.1, .2, .4, .8, .7, -.6, -.1, 1.3, .2})},
             {"params/bias", tensor({4}, {.1, -.2, .3, 0})},
             {"inputs/token_mask", flags({true, false, true})},
             {"cotangents/weights", tensor({3, 2}, {.9, -.4, .2, 1.3, -.8, .6})}},
            true, {{"aux_loss_backward_scale", 2.0}});
        call.tensors["inputs/accumulated_expert_load"] = ids({4}, {5, 0, 3, 1});
        if (c.has_correction_bias())
          call.tensors["params/e_score_correction_bias"] = tensor(DType::float32, {4}, {.25, -.5, 0, .125});
        SCOPED_TRACE(std::string(name(f)) + (norm ? " normalised" : "") + (before ? " before" : ""));
        expect_central_differences(call);
        ++checked;
      }
  EXPECT_EQ(checked, 12);
}

TEST(GateTest, GradientsWithNullSlotsAndScalesAreCentralDifferences) {
  for (const ScoreFunc f : {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::softmax_with_bias}) {
    MoEConfig c = small_config(4, 2, 3);
    c.score_func = f;
    c.norm_topk_prob = true;
    c.aux_loss_coeff = 0.7;
    c.null_slots = NullSlots::minus_one;
    c.per_expert_scale = true;
    expect_central_differences(
        small_call(Component::gate, c,
                   {{"inputs/x", tensor({3, 3}, {.3, -1, .8, 1.2, .4, -.7, -.2, .9, 1.1})},
                    {"params/weight", tensor({4, 3}, {.5, -.3, .9, -1.1, .2, .4, .8, .7, -.6, -.1, 1.3, .2})},
                    {"params/per_expert_scale", tensor({4}, {1.5, -.5, .75, 2})},
                    {"inputs/replay_indices", ids({3, 2}, {-1, 2, 3, 0, -1, -1})},
                    {"cotangents/weights", tensor({3, 2}, {.9, -.4, .2, 1.3, -.8, .6})}},
                   true));
  }
}

}  // namespace
}  // namespace moeref
