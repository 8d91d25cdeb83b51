// forced_stages.hpp: what follows a stage is judged on the stage as the port shows it.
#include "reference_cpu/components/forced_stages.hpp"

#include <gtest/gtest.h>

#include "moeref/verdict.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/verdict_of.hpp"

namespace moeref {
namespace {

/// x is the identity, so that a token's logits are a column of the weight; sigmoid scores, two of three
/// experts.
Call forced_gate_call(std::initializer_list<double> weight) {
  MoEConfig c = small_config(3, 2, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.norm_topk_prob = true;
  c.dtype = DType::float32;
  return small_call(Component::gate, c,
                    {{"inputs/x", tensor(DType::float32, {2, 2}, {1, 0, 0, 1})},
                     {"params/weight", tensor(DType::float32, {3, 2}, weight)}});
}

/// One token, one expert, bf16: h = x up, a = silu(g) u, o = a down.
Call experts_call() {
  MoEConfig c = small_config(1, 1, 2);
  c.moe_inter_dim = 1;
  c.dtype = DType::bfloat16;
  return small_call(
      Component::experts, c,
      {{"inputs/x", tensor(DType::bfloat16, {1, 2}, {1.5, -0.75})},
       {"inputs/indices", tensor(DType::int64, {1, 1}, {0})},
       {"inputs/weights", tensor(DType::bfloat16, {1, 1}, {0.75})},
       {"params/gate_and_up_projs", tensor(DType::bfloat16, {1, 2, 2}, {0.5, 1.25, -1.5, 0.75})},
       {"params/down_projs", tensor(DType::bfloat16, {1, 1, 2}, {0.5, -1.75})}});
}

TEST(ForcedStagesTest, AWrongStageIsNamedAndWhatFollowsFromItIsNot) {
  const Call call = forced_gate_call({2, -1, 0, 3, -2, 1});
  // A port that computes everything right but for its logits.
  const CaseVerdict v = judge(call, CpuReference().run(forced_gate_call({2.5, -1, 0, 3, -2, 1})));
  ASSERT_EQ(v.verdict, Verdict::fail);
  EXPECT_EQ(v.first_failure()->tensor, "stages/logits");
  const TensorVerdict& weights = verdict_of(v, "outputs/weights");
  EXPECT_EQ(weights.verdict, Verdict::fail);
  EXPECT_LE(weights.own_ratio, 1.0);
  EXPECT_NE(weights.finding.find("right on the port's own earlier stages"), std::string::npos)
      << weights.finding;
}

TEST(ForcedStagesTest, ALaterStageIsFirstWhenTheEarlierOnesAreRight) {
  const Call call = forced_gate_call({2, -1, 0, 3, -2, 1});
  NamedTensors got = CpuReference().run(call);
  got["outputs/weights"].set(0, 0.5);
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.first_failure()->tensor, "outputs/weights");
  EXPECT_GT(verdict_of(v, "outputs/weights").own_ratio, 1.0);
}

TEST(ForcedStagesTest, WithoutStagesNothingChanges) {
  const Call call = forced_gate_call({2, -1, 0, 3, -2, 1});
  NamedTensors got = CpuReference().run(call);
  std::erase_if(got, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  got["outputs/weights"].set(0, 0.5);
  const TensorVerdict weights = verdict_of(judge(call, got), "outputs/weights");
  EXPECT_EQ(weights.own_ratio, weights.ratio);
}

TEST(ForcedStagesTest, BoundsAreNarrowerOnThePortsOwnStages) {
  const Call call = experts_call();
  const Evaluation free = evaluate(call);
  NamedTensors got = CpuReference().run(call);
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
  const double bound = free.results.at("outputs/y").bound[0];
  const Evaluation forced = evaluate(call, {}, got);
  EXPECT_LT(forced.results.at("outputs/y").bound[0], 0.8 * bound);

  // Inside what rounding may do over all stages, and outside what it may do after the last one shown.
  got["outputs/y"].set(0, got["outputs/y"][0] + 0.9 * bound);
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.verdict, Verdict::fail);
  EXPECT_EQ(v.first_failure()->tensor, "outputs/y");
  EXPECT_NE(verdict_of(v, "outputs/y").finding.find("on the port's own earlier stages"), std::string::npos);
  std::erase_if(got, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
}

TEST(ForcedStagesTest, AStageMayBeShownRounded) {
  const Call call = experts_call();
  NamedTensors got = CpuReference().run(call);
  for (auto& [name, values] : got)
    if (name.starts_with("stages/"))
      for (std::int64_t i = 0; i < values.size(); ++i) values.set(i, round_to(DType::bfloat16, values[i]));
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
}

TEST(ForcedStagesTest, ABackwardPassMayMakeItsStagesAnew) {
  Call call = experts_call();
  call.backward = true;
  call.tensors["cotangents/y"] = tensor(DType::bfloat16, {1, 2}, {0.75, -1.25});
  const Evaluation free = evaluate(call);
  NamedTensors got = CpuReference().run(call);
  // The activation as it would be of another, honestly rounded h: what the forward pass shows is not what
  // this gradient saw.
  Tensor& gradient = got["grads/down_projs"];
  gradient.set(0, gradient[0] + 0.9 * free.results.at("grads/down_projs").bound[0]);
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
}

TEST(ForcedStagesTest, AStageThatIsNotShownIsNamedBesideTheOneAfterIt) {
  const Call call = experts_call();
  NamedTensors got = CpuReference().run(call);
  got.erase("stages/activation");
  for (const char* later : {"stages/down_projection", "outputs/y"}) got.at(later).set(0, 3.0);
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.first_failure()->tensor, "stages/down_projection");
  EXPECT_NE(v.first_failure()->finding.find("stages/activation before it is not shown"), std::string::npos)
      << v.first_failure()->finding;

  // The stage itself, where it is shown; and of nothing shown, nothing is said.
  got["stages/activation"] = CpuReference().run(call).at("stages/activation");
  EXPECT_EQ(judge(call, got).first_failure()->finding.find("not shown"), std::string::npos);
  std::erase_if(got, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  EXPECT_EQ(judge(call, got).first_failure()->finding.find("not shown"), std::string::npos);
}

TEST(ForcedStagesTest, AStageOfAnotherShapeForcesNothing) {
  const Call call = experts_call();
  NamedTensors got = CpuReference().run(call);
  got["stages/activation"] = tensor(DType::float32, {1}, {7.0});
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.first_failure()->tensor, "stages/activation");
  EXPECT_EQ(verdict_of(v, "outputs/y").verdict, Verdict::pass);
}

}  // namespace
}  // namespace moeref
