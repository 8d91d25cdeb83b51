// reference_results.hpp: what is computed, and how often.
#include "reference_cpu/verdict/reference_results.hpp"

#include <gtest/gtest.h>

#include "reference_cpu/tests/small_call.hpp"

namespace moeref {
namespace {

/// Logits (2, 0, -2) and (-1, 3, 1) of two tokens; two of three experts.
Call gate_call() {
  MoEConfig c = small_config(3, 2, 2);
  c.score_func = ScoreFunc::sigmoid;
  c.dtype = DType::float32;
  return small_call(Component::gate, c,
                    {{"inputs/x", tensor(DType::float32, {2, 2}, {1, 0, 0, 1})},
                     {"params/weight", tensor(DType::float32, {3, 2}, {2, -1, 0, 3, -2, 1})}});
}

/// The reference's results as a float32 file holds them.
NamedTensors recorded(const Call& call) {
  NamedTensors out = CpuReference().run(call);
  for (auto& [name, tensor] : out)
    if (is_floating(tensor.dtype())) tensor = tensor.cast(DType::float32);
  return out;
}

TEST(ReferenceResultsTest, NothingIsComputedUnasked) {
  const Call call = gate_call();
  EXPECT_EQ(ReferenceResults(call).evaluations(), 0);
}

TEST(ReferenceResultsTest, RecordedResultsThatPassCostOneEvaluation) {
  const Call call = gate_call();
  const NamedTensors golden = recorded(call);
  ASSERT_TRUE(golden.contains("stages/logits"));
  ReferenceResults reference(call);
  EXPECT_EQ(judge(reference, golden).verdict, Verdict::pass);
  EXPECT_FALSE(reference.differing_bits(golden));
  EXPECT_EQ(judge(reference, golden).verdict, Verdict::pass);
  EXPECT_EQ(reference.evaluations(), 1);
}

TEST(ReferenceResultsTest, OtherIdsAreComputedOnceForAllWhoAsk) {
  const Call call = gate_call();
  NamedTensors got = recorded(call);
  std::erase_if(got, [](const auto& entry) { return entry.first.starts_with("stages/"); });
  got["outputs/indices"] = ids({2, 2}, {0, 2, 1, 2});
  ReferenceResults reference(call);
  EXPECT_EQ(judge(reference, got).verdict, Verdict::fail);
  EXPECT_EQ(reference.evaluations(), 2);
  EXPECT_EQ(reference.on_routing_of(got).results.at("outputs/indices").value,
            (std::vector<double>{0, 2, 1, 2}));
  judge(reference, got);
  EXPECT_EQ(reference.evaluations(), 2);
  got["outputs/indices"] = ids({2, 2}, {0, 1, 0, 1});
  EXPECT_EQ(reference.on_routing_of(got).results.at("outputs/indices").value,
            (std::vector<double>{0, 1, 0, 1}));
  EXPECT_EQ(reference.evaluations(), 3);
}

TEST(ReferenceResultsTest, UnusableIdsLeaveTheReferencesOwn) {
  const Call call = gate_call();
  for (const auto& bad : {ids({2, 2}, {0, 0, 1, 2}), ids({2, 2}, {0, 3, 1, 2}), ids({2, 2}, {0, -1, 1, 2}),
                          ids({4}, {0, 1, 1, 2})}) {
    ReferenceResults reference(call);
    EXPECT_EQ(&reference.on_routing_of({{"outputs/indices", bad}}), &reference.own());
    EXPECT_EQ(reference.evaluations(), 1);
  }
}

TEST(ReferenceResultsTest, OwnStagesAreJudgedWhereABitDiffers) {
  const Call call = gate_call();
  NamedTensors got = recorded(call);
  got["stages/logits"].set(0, 2.0000002);
  ReferenceResults reference(call);
  judge(reference, got);
  EXPECT_EQ(reference.evaluations(), 2);
}

TEST(ReferenceResultsTest, DifferingBitsAreNamed) {
  const Call call = gate_call();
  ReferenceResults reference(call);
  NamedTensors got = recorded(call);
  got["outputs/expert_load"].set(1, 7.0);
  EXPECT_EQ(reference.differing_bits(got), "outputs/expert_load[1] is 7 where 2 belongs");
  got = recorded(call);
  got["stages/logits"].set(1, -0.0);  // the same number, another bit
  EXPECT_EQ(reference.differing_bits(got), "stages/logits[0, 1] is -0 where 0 belongs");
  EXPECT_EQ(reference.differing_bits({{"outputs/z", ids({1}, {0})}}), "outputs/z is no result of this call");
  EXPECT_EQ(reference.differing_bits({{"outputs/weights", tensor({1}, {0})}}),
            "outputs/weights has another shape");
}

}  // namespace
}  // namespace moeref
