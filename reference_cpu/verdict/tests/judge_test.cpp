// verdict.hpp: every finding of the judge, on a gate call whose numbers are known.
#include <gtest/gtest.h>

#include <cmath>

#include "moeref/verdict.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/verdict_of.hpp"

namespace moeref {
namespace {

/// x is the identity, so that a token's logits are a column of the weight; sigmoid scores, two of three
/// experts.
Call judged_gate_call(std::initializer_list<double> weight, DType dtype = DType::float32) {
  MoEConfig c = small_config(3, 2, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.dtype = dtype;
  return small_call(
      Component::gate, c,
      {{"inputs/x", tensor(dtype, {2, 2}, {1, 0, 0, 1})}, {"params/weight", tensor(dtype, {3, 2}, weight)}});
}
const std::initializer_list<double> kClear{2, -1, 0, 3, -2, 1};  // logits (2, 0, -2) and (-1, 3, 1)

NamedTensors honest(const Call& call) { return CpuReference().run(call); }

TEST(JudgeTest, TheReferenceItselfPassesWithRatioZero) {
  const Call call = judged_gate_call(kClear);
  const CaseVerdict v = judge(call, honest(call));
  EXPECT_EQ(v.verdict, Verdict::pass);
  EXPECT_EQ(v.worst_ratio(), 0.0);
  EXPECT_EQ(v.tokens, 2);
  EXPECT_EQ(v.uncertified_tokens, 0);
  EXPECT_EQ(v.first_failure(), nullptr);
}

TEST(JudgeTest, RatioIsTheDifferenceOverTheBound) {
  const Call call = judged_gate_call(kClear);
  const Evaluation e = evaluate(call);
  NamedTensors got = honest(call);
  const double bound = e.results.at("outputs/weights").bound[1], value = got["outputs/weights"][1];
  got["outputs/weights"].set(1, value + 0.5 * bound);
  EXPECT_NEAR(verdict_of(judge(call, got), "outputs/weights").ratio, 0.5, 1e-6);
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
  got["outputs/weights"].set(1, value - 1.5 * bound);
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.verdict, Verdict::fail);
  EXPECT_NEAR(verdict_of(v, "outputs/weights").ratio, 1.5, 1e-6);
  EXPECT_EQ(verdict_of(v, "outputs/weights").index, 1);
  EXPECT_EQ(verdict_of(v, "outputs/weights").finding, "outside the bound");
  EXPECT_EQ(v.first_failure()->tensor, "outputs/weights");
}

TEST(JudgeTest, ExactResultsAllowNothing) {
  const Call call = judged_gate_call(kClear);
  NamedTensors got = honest(call);
  got["outputs/expert_load"].set(0, got["outputs/expert_load"][0] + 1.0);
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.verdict, Verdict::fail);
  EXPECT_TRUE(std::isinf(verdict_of(v, "outputs/expert_load").ratio));
}

TEST(JudgeTest, MissingMisshapenAndMistyped) {
  const Call call = judged_gate_call(kClear);
  NamedTensors got = honest(call);
  got.erase("outputs/weights");
  EXPECT_EQ(verdict_of(judge(call, got), "outputs/weights").finding, "missing");
  EXPECT_EQ(judge(call, got).verdict, Verdict::fail);

  got = honest(call);
  got["outputs/weights"] = Tensor(DType::float32, {2, 3});
  EXPECT_EQ(verdict_of(judge(call, got), "outputs/weights").finding, "has shape [2, 3] where [2, 2] belongs");
  got["outputs/weights"] = Tensor(DType::int64, {2, 2});
  EXPECT_EQ(verdict_of(judge(call, got), "outputs/weights").finding,
            "has dtype int64 where a floating one belongs");

  got = honest(call);
  got["outputs/indices"] = Tensor(DType::int64, {2, 1});
  EXPECT_EQ(verdict_of(judge(call, got), "outputs/indices").finding, "has shape [2, 1] where [2, 2] belongs");
  got["outputs/indices"] = Tensor(DType::float32, {2, 2});
  EXPECT_EQ(verdict_of(judge(call, got), "outputs/indices").finding, "has dtype float32 where int64 belongs");
  EXPECT_EQ(judge(call, NamedTensors{}).verdict, Verdict::fail);
}

TEST(JudgeTest, StagesAreJudgedWherePresent) {
  const Call call = judged_gate_call(kClear);
  NamedTensors got = honest(call);
  got.erase("stages/logits");
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
  got = honest(call);
  got["stages/logits"].set(0, 2.5);
  got["outputs/weights"].set(0, 9.0);
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.first_failure()->tensor, "stages/logits");  // the first divergence
}

TEST(JudgeTest, NaNAndInfinity) {
  const Call call = judged_gate_call(kClear);
  for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    NamedTensors got = honest(call);
    got["outputs/weights"].set(2, bad);
    const CaseVerdict v = judge(call, got);
    EXPECT_EQ(v.verdict, Verdict::fail);
    EXPECT_EQ(verdict_of(v, "outputs/weights").finding, "not finite where the reference is");
  }
}

TEST(JudgeTest, WrongAndInvalidIds) {
  const Call call = judged_gate_call(kClear);
  NamedTensors got = honest(call);
  got["outputs/indices"] = ids({2, 2}, {0, 2, 1, 2});
  EXPECT_EQ(judge(call, got).verdict, Verdict::fail);
  EXPECT_NE(verdict_of(judge(call, got), "outputs/indices")
                .finding.find("token 0: chose {0, 2} where the reference has {0, 1}"),
            std::string::npos);
  for (const auto& bad : {ids({2, 2}, {0, 1, 1, 3}), ids({2, 2}, {0, 1, 1, 1}), ids({2, 2}, {0, 1, 1, -1})}) {
    got["outputs/indices"] = bad;
    const CaseVerdict v = judge(call, got);
    EXPECT_EQ(v.verdict, Verdict::fail);
    EXPECT_NE(verdict_of(v, "outputs/indices").finding.find("token 1"), std::string::npos);
  }
}

TEST(JudgeTest, SwappedSlotsAreJudgedWithTheirWeights) {
  const Call call = judged_gate_call(kClear);
  NamedTensors got = honest(call);
  const double first = got["outputs/weights"][0], second = got["outputs/weights"][1];
  got["outputs/indices"] = ids({2, 2}, {1, 0, 1, 2});
  EXPECT_EQ(judge(call, got).verdict, Verdict::fail);  // ids swapped and weights not: decoupled
  got["outputs/weights"].set(0, second);
  got["outputs/weights"].set(1, first);
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
}

TEST(JudgeTest, TiesAreLeftOpenUnlessTheLowestIdIsDeclared) {
  const Call call = judged_gate_call({2, 3, 1, 0, 1, -1});  // token 0: logits 2, 1, 1
  NamedTensors got = honest(call);
  got["outputs/indices"] = ids({2, 2}, {0, 2, 0, 1});
  const double w = got["outputs/expert_load"][1];
  got["outputs/expert_load"].set(1, w - 1);
  got["outputs/expert_load"].set(2, 1);
  const CaseVerdict open = judge(call, got);
  EXPECT_EQ(open.verdict, Verdict::pass);
  EXPECT_EQ(open.tied_tokens, 1);
  EXPECT_EQ(open.uncertified_tokens, 1);
  JudgeOptions declared;
  declared.lowest_id_first = true;
  const CaseVerdict closed = judge(call, got, declared);
  EXPECT_EQ(closed.verdict, Verdict::fail);
  EXPECT_NE(verdict_of(closed, "outputs/indices").finding.find("not the lowest ids"), std::string::npos);
}

TEST(JudgeTest, ExplainableIdsAreAmbiguousAndRationed) {
  // bfloat16 logits 1.0078 and 1: apart by one unit in the last place, which the bound covers.
  const Call call = judged_gate_call({2, 2, 1.0078125, 1.0078125, 1, 1}, DType::bfloat16);
  NamedTensors got = honest(call);
  const auto choose_last = [&](std::int64_t token) {
    auto all = got["outputs/indices"].as<std::int64_t>();
    all[static_cast<std::size_t>(2 * token + 1)] = 2;
    got["outputs/expert_load"].set(1, got["outputs/expert_load"][1] - 1);
    got["outputs/expert_load"].set(2, got["outputs/expert_load"][2] + 1);
  };
  choose_last(0);
  got["outputs/weights"].set(1, 1.0 / (1.0 + std::exp(-1.0)));
  const CaseVerdict one = judge(call, got);
  EXPECT_EQ(one.verdict, Verdict::ambiguous);
  EXPECT_EQ(one.ambiguous_tokens, 1);
  EXPECT_EQ(verdict_of(one, "outputs/indices").verdict, Verdict::ambiguous);
  choose_last(1);
  got["outputs/weights"].set(3, 1.0 / (1.0 + std::exp(-1.0)));
  const CaseVerdict both = judge(call, got);  // one token always may, two of two are above the ceiling
  EXPECT_EQ(both.verdict, Verdict::fail);
  EXPECT_NE(verdict_of(both, "outputs/indices").finding.find("more than the ceiling allows"),
            std::string::npos);
  JudgeOptions lenient;
  lenient.ambiguity_ceiling = 1.0;
  EXPECT_EQ(judge(call, got, lenient).verdict, Verdict::ambiguous);
}

TEST(JudgeTest, ReplayedIdsAreGivenAndMustComeBackAsTheyAre) {
  Call call = judged_gate_call(kClear);
  call.tensors["inputs/replay_indices"] = ids({2, 2}, {2, 1, 0, 2});  // no selection would give these
  NamedTensors got = honest(call);
  EXPECT_EQ(judge(call, got).verdict, Verdict::pass);
  got["outputs/indices"] = ids({2, 2}, {0, 1, 1, 2});
  EXPECT_EQ(judge(call, got).verdict, Verdict::fail);
}

TEST(JudgeTest, SlotsOfAReplayMayComeInAnotherOrder) {
  Call call = judged_gate_call(kClear);
  call.tensors["inputs/replay_indices"] = ids({2, 2}, {2, 1, 0, 2});
  const NamedTensors as_given = honest(call);
  NamedTensors sorted = as_given;
  sorted["outputs/indices"] = ids({2, 2}, {1, 2, 0, 2});
  EXPECT_EQ(judge(call, sorted).verdict, Verdict::fail);  // the weights are still in the order given
  Tensor& weights = sorted["outputs/weights"];
  weights.set(0, as_given.at("outputs/weights")[1]);
  weights.set(1, as_given.at("outputs/weights")[0]);
  EXPECT_EQ(judge(call, sorted).verdict, Verdict::pass);
  EXPECT_EQ(judge(call, sorted).worst_ratio(), 0.0);
}

TEST(JudgeTest, ElementsWithoutABoundProveNothingAndAreSaid) {
  // Logits of 300 * 300 overflow float16: an honest implementation may hold infinity or not.
  MoEConfig c = small_config(2, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.dtype = DType::float16;
  const Call call = small_call(Component::gate, c,
                               {{"inputs/x", tensor(DType::float16, {1, 1}, {300})},
                                {"params/weight", tensor(DType::float16, {2, 1}, {300, 1})}});
  NamedTensors got = honest(call);
  for (const double held : {90000.0, static_cast<double>(INFINITY)}) {
    got["stages/logits"].set(0, held);
    const CaseVerdict v = judge(call, got);
    EXPECT_EQ(verdict_of(v, "stages/logits").verdict, Verdict::ambiguous);
    EXPECT_EQ(verdict_of(v, "stages/logits").unbounded, 1);
    EXPECT_EQ(verdict_of(v, "stages/logits").ratio, 0.0);
    EXPECT_EQ(v.verdict, Verdict::ambiguous);
  }
}

TEST(VerdictTest, NamesAndOrder) {
  EXPECT_EQ(name(Verdict::pass), "PASS");
  EXPECT_EQ(name(Verdict::crashed), "CRASHED");
  EXPECT_EQ(worse(Verdict::pass, Verdict::ambiguous), Verdict::ambiguous);
  EXPECT_EQ(worse(Verdict::fail, Verdict::waived), Verdict::fail);
  const char* order[] = {"stages/logits",     "outputs/indices", "outputs/weights", "outputs/aux_loss",
                         "stages/activation", "outputs/y",       "grads/x"};
  for (std::size_t i = 1; i < std::size(order); ++i)
    EXPECT_LT(stage_order(order[i - 1]), stage_order(order[i])) << order[i];
}

}  // namespace
}  // namespace moeref
