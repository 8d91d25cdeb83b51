// own_selection.hpp: choices that the reference's bounds leave open and the candidate's own numbers do not.
#include "reference_cpu/verdict/own_selection.hpp"

#include <gtest/gtest.h>

#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

/// Two tokens in bfloat16 whose logits are (2, 1 + one unit in the last place, 1): near enough to be chosen
/// in either order by honest ports.
Call near_tie(ScoreFunc score = ScoreFunc::sigmoid) {
  MoEConfig c = small_config(3, 2, 2);
  c.score_func = score;
  c.dtype = DType::bfloat16;
  return small_call(Component::gate, c,
                    {{"inputs/x", tensor(DType::bfloat16, {2, 2}, {1, 0, 0, 1})},
                     {"params/weight", tensor(DType::bfloat16, {3, 2}, {2, 2, 1.0078125, 1.0078125, 1, 1})}});
}

/// The reference's results with token 0 sent to experts 0 and 2.
NamedTensors other_choice(const Call& call) {
  NamedTensors out = CpuReference().run(call);
  out["outputs/indices"] = ids({2, 2}, {0, 2, 0, 1});
  NamedTensors forced;
  forced["outputs/indices"] = out["outputs/indices"];
  const Evaluation e = evaluate(call, forced);
  for (const char* name : {"outputs/weights", "outputs/expert_load"})
    out[name] = Tensor::of(e.results.at(name).shape, e.results.at(name).value);
  return out;
}

void set_logits(NamedTensors& results, std::initializer_list<double> logits) {
  results["stages/logits"] = tensor(DType::float32, {2, 3}, logits);
}

const TensorVerdict& ids_of(const CaseVerdict& v) {
  for (const TensorVerdict& t : v.tensors)
    if (t.tensor == "outputs/indices") return t;
  static const TensorVerdict none;
  return none;
}

TEST(OwnSelectionTest, HiddenStagesLeaveTheChoiceOpen) {
  const Call call = near_tie();
  NamedTensors got = other_choice(call);
  got.erase("stages/logits");
  got.erase("stages/scores");
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.verdict, Verdict::ambiguous);
  EXPECT_EQ(v.uncertified_tokens, 2);
  EXPECT_EQ(v.own_certified_tokens, 0);
  EXPECT_EQ(v.ambiguous_tokens, 1);
  EXPECT_FALSE(v.shows_scores);
}

TEST(OwnSelectionTest, ShownLogitsProveIt) {
  // Its own logits, within the bounds, have expert 2 above 1 for token 0.
  const Call call = near_tie();
  NamedTensors got = other_choice(call);
  got.erase("stages/scores");
  set_logits(got, {2, 1, 1.0078125, 2, 1.0078125, 1});
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(ids_of(v).verdict, Verdict::pass) << ids_of(v).finding;
  EXPECT_EQ(v.own_certified_tokens, 2);
  EXPECT_EQ(v.ambiguous_tokens, 0);
  EXPECT_TRUE(v.shows_scores);
}

TEST(OwnSelectionTest, LogitsThatLeadElsewhereAccuse) {
  // No bfloat16 numbers: the candidate has finer logits, and these are they.
  const Call call = near_tie();
  NamedTensors got = other_choice(call);
  got.erase("stages/scores");
  set_logits(got, {2, 1.0078125, 1.0001, 2, 1.0078125, 1});
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(ids_of(v).verdict, Verdict::fail);
  EXPECT_NE(ids_of(v).finding.find("token 0: chose {0, 2} where its own logits lead to {0, 1}"),
            std::string::npos)
      << ids_of(v).finding;
  // Rounded to bfloat16 both are 1.0078125, or both 1: a tie, in which expert 2 may be chosen.
  set_logits(got, {2, 1.0078125, 1.006, 2, 1.0078125, 1});
  EXPECT_EQ(ids_of(judge(call, got)).verdict, Verdict::pass);
  JudgeOptions lowest;
  lowest.lowest_id_first = true;
  EXPECT_EQ(ids_of(judge(call, got, lowest)).verdict, Verdict::fail);
}

TEST(OwnSelectionTest, RoundedLogitsMayHaveBeenFiner) {
  const Call call = near_tie();
  NamedTensors got = other_choice(call);
  got.erase("stages/scores");
  set_logits(got, {2, 1.0078125, 1, 2, 1.0078125, 1});  // what the reference has, rounded
  const CaseVerdict v = judge(call, got);
  EXPECT_EQ(v.verdict, Verdict::ambiguous);
  EXPECT_EQ(v.own_certified_tokens, 0);
  // As they are they explain the reference's own choice.
  got["outputs/indices"] = ids({2, 2}, {0, 1, 0, 1});
  EXPECT_EQ(judge(call, got).own_certified_tokens, 2);
}

TEST(OwnSelectionTest, ScoresAloneProveItToo) {
  for (const ScoreFunc score : {ScoreFunc::sigmoid, ScoreFunc::softmax}) {
    const Call call = near_tie(score);
    NamedTensors got = other_choice(call);
    got.erase("stages/logits");
    Tensor& scores = got["stages/scores"];
    const double first = scores[1], second = scores[2];
    scores.set(1, second);
    scores.set(2, first);
    const CaseVerdict v = judge(call, got);
    EXPECT_EQ(v.own_certified_tokens, 2) << name(score);
    EXPECT_EQ(ids_of(v).verdict, Verdict::pass) << name(score) << ids_of(v).finding;
    scores.set(1, first);
    scores.set(2, second);
    EXPECT_EQ(ids_of(judge(call, got)).verdict, Verdict::fail) << name(score);
  }
}

/// At E = 256 in bfloat16 the reference's bounds settle few choices, and an honest port's logits nearly all.
TEST(OwnSelectionTest, HonestPortsAreProvenAtManyExperts) {
  MoEConfig c = small_config(256, 8, 64);
  c.score_func = ScoreFunc::softmax;
  c.dtype = DType::bfloat16;
  Tensor x(DType::bfloat16, {48, 64}), weight(DType::bfloat16, {256, 64});
  std::uint32_t state = 7;
  const auto next = [&] {
    return static_cast<double>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24 - 0.5;
  };
  for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, 2.0 * next());
  for (std::int64_t i = 0; i < weight.size(); ++i) weight.set(i, 2.0 * next());
  const Call call = small_call(Component::gate, c, {{"inputs/x", x}, {"params/weight", weight}});
  for (const bool fused : {false, true}) {
    eager::EagerPort port({fused, fused ? eager::Order::pairwise : eager::Order::forward, fused});
    const CaseVerdict v = judge(call, port.run(call));
    EXPECT_LT(v.verdict, Verdict::fail) << v.first_failure()->finding;
    EXPECT_GT(v.uncertified_tokens, 8) << fused;
    EXPECT_EQ(v.own_certified_tokens, v.uncertified_tokens) << fused;
    EXPECT_EQ(v.ambiguous_tokens, 0) << fused;
  }
}

}  // namespace
}  // namespace moeref
