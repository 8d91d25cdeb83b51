// agreement.hpp on a gate whose near tie is known: who took which experts, and who is to blame.
#include "tools/judging/agreement.hpp"

#include <gtest/gtest.h>

#include "moeref/reference.hpp"
#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

/// bfloat16 logits (2, 1 + one unit in the last place, 1, -4) for both tokens.
Call gate_with_near_tie() {
  MoEConfig c = small_config(4, 2, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.dtype = DType::bfloat16;
  return small_call(
      Component::gate, c,
      {{"inputs/x", tensor(DType::bfloat16, {2, 2}, {1, 0, 0, 1})},
       {"params/weight", tensor(DType::bfloat16, {4, 2}, {2, 2, 1.0078125, 1.0078125, 1, 1, -4, -4})}});
}

/// What an implementation with these ids gives, without stages.
AgreementSide side(const Call& call, std::initializer_list<std::int64_t> chosen) {
  AgreementSide out;
  NamedTensors routing;
  routing["outputs/indices"] = ids({2, 2}, chosen);
  const Evaluation e = evaluate(call, routing);
  for (const auto& [name, result] : e.results)
    if (name.starts_with("outputs/") && name != "outputs/indices")
      out.results[name] = Tensor::of(result.shape, result.value);
  out.results["outputs/indices"] = routing["outputs/indices"];
  return out;
}

Agreement compared(const Call& call, const AgreementSide& a, const AgreementSide& b) {
  Agreement out;
  compare(call, "a gate", a, b, out);
  return out;
}

TEST(AgreementTest, TheSameIsTheSameInAnyOrderOfSlots) {
  const Call call = gate_with_near_tie();
  const Agreement v = compared(call, side(call, {0, 1, 0, 1}), side(call, {1, 0, 0, 1}));
  EXPECT_TRUE(v.agrees());
  EXPECT_EQ(v.alike, 2);
  EXPECT_EQ(v.worst_ratio(), 0.0);
  EXPECT_EQ(v.tensors.at("outputs/weights").elements, 4);
  EXPECT_EQ(v.tensors.at("outputs/weights").differing, 0);
  EXPECT_EQ(summary_line(v),
            "agree: 100 % of tokens route alike, 0 % differ explainably, 0 unexplained; values within bounds "
            "(worst 0)");
}

TEST(AgreementTest, ANearTieExplainsAnotherChoice) {
  const Call call = gate_with_near_tie();
  const Agreement v = compared(call, side(call, {0, 1, 0, 1}), side(call, {0, 2, 0, 1}));
  EXPECT_TRUE(v.agrees());
  EXPECT_EQ(v.tokens, 2);
  EXPECT_EQ(v.alike, 1);
  EXPECT_EQ(v.explained, 1);
  EXPECT_EQ(v.tensors.at("outputs/weights").elements, 2);  // of the token that went the same way
  EXPECT_FALSE(v.tensors.contains("outputs/expert_load"));
}

TEST(AgreementTest, WhoseChoiceNothingExplainsIsToBlame) {
  const Call call = gate_with_near_tie();
  const AgreementSide right = side(call, {0, 1, 0, 1}), wrong = side(call, {0, 3, 0, 1}),
                      other = side(call, {1, 3, 0, 1});
  EXPECT_EQ(compared(call, right, wrong).unexplained.at(0).blame, Blame::b);
  EXPECT_EQ(compared(call, wrong, right).unexplained.at(0).blame, Blame::a);
  EXPECT_EQ(compared(call, wrong, other).unexplained.at(0).blame, Blame::both);
  const Agreement v = compared(call, right, wrong);
  EXPECT_EQ(v.unexplained_tokens, 1);
  EXPECT_NE(v.unexplained.at(0).text.find("token 0: A chose {0, 1}, B {0, 3}: B is wrong"), std::string::npos)
      << v.unexplained.at(0).text;
}

TEST(AgreementTest, OwnLogitsAccuse) {
  const Call call = gate_with_near_tie();
  AgreementSide b = side(call, {0, 2, 0, 1});
  b.results["stages/logits"] =
      tensor(DType::float32, {2, 4}, {2, 1.0078125, 1.0001, -4, 2, 1.0078125, 1.0001, -4});
  const Agreement v = compared(call, side(call, {0, 1, 0, 1}), b);
  ASSERT_EQ(v.unexplained.size(), 1u);
  EXPECT_EQ(v.unexplained[0].blame, Blame::b);
  EXPECT_NE(v.unexplained[0].text.find("its own logits lead to"), std::string::npos);
}

TEST(AgreementTest, ValuesBeyondBothBoundsAreThoseOfTheWrongSide) {
  const Call call = gate_with_near_tie();
  const AgreementSide right = side(call, {0, 1, 0, 1});
  AgreementSide off = right;
  const double bound = evaluate(call).results.at("outputs/weights").bound[3];
  Tensor& weights = off.results["outputs/weights"];
  const double value = weights[3];
  weights.set(3, value + bound);
  const Agreement near = compared(call, right, off);
  EXPECT_TRUE(near.agrees());
  EXPECT_NEAR(near.tensors.at("outputs/weights").worst, 0.5, 1e-6);
  weights.set(3, value + 3 * bound);
  const Agreement far = compared(call, right, off);
  ASSERT_EQ(far.unexplained.size(), 1u);
  EXPECT_EQ(far.unexplained[0].blame, Blame::b);
  EXPECT_NEAR(far.tensors.at("outputs/weights").worst, 1.5, 1e-6);
  EXPECT_EQ(far.tensors.at("outputs/weights").beyond, 1);
  EXPECT_NE(summary_line(far).find("values beyond bounds (worst 1.5)"), std::string::npos)
      << summary_line(far);
}

}  // namespace
}  // namespace moeref
