// What several ranks did, in one verdict and one line.
#include "tools/ports/rank_outcomes.hpp"

#include <gtest/gtest.h>

#include "tools/port_abi/call_tensors.hpp"

namespace moeref {
namespace {

PortOutcome with(Verdict verdict, const std::string& finding) {
  PortOutcome out;
  out.verdict = verdict;
  out.finding = finding;
  return out;
}

TEST(RankOutcomesTest, TheWorstComesFirst) {
  const PortOutcome all = joined({with(Verdict::fail, "lost"), with(Verdict::pass, ""),
                                  with(Verdict::crashed, "crash"), with(Verdict::fail, "lost")});
  EXPECT_EQ(all.verdict, Verdict::crashed);
  EXPECT_EQ(all.finding, "rank 2: crash; ranks 0, 3: lost");
}

TEST(RankOutcomesTest, OneProcessIsNoRank) {
  EXPECT_EQ(joined({with(Verdict::fail, "lost")}).finding, "lost");
}

TEST(RankOutcomesTest, DecliningIsForAll) {
  const PortOutcome no = with(Verdict::not_supported, "no bias");
  EXPECT_EQ(joined({no, no}).verdict, Verdict::not_supported);
  EXPECT_EQ(joined({no, no}).finding, "no bias");
  const PortOutcome split = joined({with(Verdict::pass, ""), no});
  EXPECT_EQ(split.verdict, Verdict::fail);
  EXPECT_EQ(split.finding, "rank 1: not supported, as others do not say: no bias");
}

/// A rank that refuses a call takes the others with it; a rank that only lost another one refuses nothing.
TEST(RankOutcomesTest, OneRefusalIsEnough) {
  PortOutcome refuses = with(Verdict::fail, "bad id"), loses = with(Verdict::fail, "lost");
  refuses.refused = loses.refused = loses.lost_ranks = true;
  EXPECT_TRUE(joined({refuses, loses}).refused);
  EXPECT_FALSE(joined({loses, loses}).refused);
  EXPECT_FALSE(joined({refuses, with(Verdict::crashed, "crash")}).refused);
}

class TogetherTest : public ::testing::Test {
 protected:
  TogetherTest() {
    call.component = Component::mlp;
    call.config = {{"dim", 2}, {"inter_dim", 1}, {"dtype", "float64"}, {"activation", "relu2"}};
    call.options = {{"dp_size", 2}, {"tokens_per_rank", {1, 2}}};
    call.backward = true;
    call.tensors["inputs/x"] = Tensor(DType::float64, {3, 2});
    for (std::size_t r = 0; r < 2; ++r) {
      const auto rows = static_cast<std::int64_t>(r + 1);
      NamedTensors& own = outcomes[r].results;
      own["outputs/y"] = own["grads/x"] =
          Tensor::of({rows, 2}, std::vector<double>(2 * r + 2, 1.0 + static_cast<double>(r)));
      own["grads/up_proj.weight"] = Tensor::of({1, 2}, std::vector<double>{5.0, 6.0});
      own["grads/down_proj.weight"] = Tensor::of({2, 1}, std::vector<double>{7.0, 8.0});
    }
  }
  PortOutcome all() const { return together(RankShares(call, 2, port_outputs(call, {})), outcomes); }

  Call call;
  RankOutcomes outcomes{2};
};

TEST_F(TogetherTest, PartsAreJoinedAndWholesTaken) {
  const PortOutcome out = all();
  EXPECT_EQ(out.verdict, Verdict::pass) << out.finding;
  EXPECT_EQ(out.results.at("outputs/y"), Tensor::of({3, 2}, std::vector<double>{1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(out.results.at("grads/down_proj.weight"), Tensor::of({2, 1}, std::vector<double>{7.0, 8.0}));
}

TEST_F(TogetherTest, DifferentBitsAreAFinding) {
  outcomes[1].results["grads/down_proj.weight"].set(1, 8.5);
  EXPECT_EQ(all().verdict, Verdict::fail);
  EXPECT_EQ(all().finding, "ranks disagree: grads/down_proj.weight[1, 0], rank 0 has 8, rank 1 has 8.5");
  // Zeros of different signs compare equal, and are not the same.
  for (PortOutcome& outcome : outcomes) outcome.results["grads/down_proj.weight"].set(1, 0.0);
  EXPECT_EQ(all().verdict, Verdict::pass);
  outcomes[0].results["grads/down_proj.weight"].set(1, -0.0);
  EXPECT_EQ(all().finding, "ranks disagree: grads/down_proj.weight[1, 0], rank 0 has -0, rank 1 has 0");
}

TEST_F(TogetherTest, WhatOneRankLeavesOutIsLeftOut) {
  outcomes[0].results.erase("grads/x");
  const PortOutcome out = all();
  EXPECT_EQ(out.finding, "ranks disagree: grads/x, which rank 1 writes and rank 0 does not");
  EXPECT_FALSE(out.results.contains("grads/x"));
  outcomes[1].results.erase("grads/x");
  EXPECT_EQ(all().verdict, Verdict::pass);
}

}  // namespace
}  // namespace moeref
