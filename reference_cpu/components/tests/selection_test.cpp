// selection.hpp: the k best, ties, NaN, groups and what becomes of the discarded ones.
#include "reference_cpu/components/selection.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "moeref/error.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

using Ids = std::vector<std::int64_t>;

MoEConfig grouped(ScoreFunc score, std::int64_t k, std::int64_t groups, std::int64_t limited,
                  bool correction) {
  MoEConfig c = small_config(6, k);
  c.score_func = score;
  c.n_expert_groups = groups;
  c.n_limited_groups = limited;
  c.force_e_score_correction_bias = correction;
  return c;
}

TEST(TopK, IsDescending) {
  EXPECT_EQ(top_k(std::vector<double>{0.1, 0.5, -2.0, 0.3}, 3), (Ids{1, 3, 0}));
  EXPECT_EQ(top_k(std::vector<double>{0.1, 0.5}, 2), (Ids{1, 0}));
  EXPECT_EQ(top_k(std::vector<double>{7.0}, 1), (Ids{0}));
}

TEST(TopK, GivesTheLowestIdAmongEquals) {
  EXPECT_EQ(top_k(std::vector<double>{1, 2, 2, 1, 2}, 2), (Ids{1, 2}));
  EXPECT_EQ(top_k(std::vector<double>{1, 1, 1, 1}, 3), (Ids{0, 1, 2}));
  EXPECT_EQ(top_k(std::vector<double>{0.0, -0.0, 0.0}, 2), (Ids{0, 1}));
}

TEST(SelectExperts, TheLastOnesMayBeChosenAlways) {
  MoEConfig c = small_config(5, 3);
  c.n_always_selected = 2;
  EXPECT_EQ(select_experts(row({1, 3, 2, 9, -9}), c), (Ids{1, 3, 4}));
  EXPECT_EQ(select_experts(row({NAN, 3, 2, 9, -9}), c), (Ids{0, 3, 4}));
  EXPECT_EQ(parse_moe_config(to_json(c)), c);
  for (const char* field : {"n_always_selected", "n_identity_experts", "gate_bias_update_factor"}) {
    nlohmann::json wrong = to_json(c);
    wrong[field] = 3;
    EXPECT_THROW(parse_moe_config(wrong), InputError) << field;
  }
  nlohmann::json in_groups = to_json(c);
  in_groups["n_routed_experts"] = 6;
  in_groups["n_expert_groups"] = in_groups["n_limited_groups"] = 2;
  in_groups["score_func"] = "sigmoid_with_bias";
  EXPECT_THROW(parse_moe_config(in_groups), InputError);
}

TEST(GroupScores, ByConvention) {
  const auto q = row({5, 1, 0, 3, 3, -1});
  MoEConfig c = grouped(ScoreFunc::sigmoid, 3, 2, 1, true);
  const auto scores = [&](GroupScore rule) {
    c.group_score = rule;
    const auto groups = group_scores(q, c);
    return std::pair{groups.at(0).value, groups.at(1).value};
  };
  EXPECT_EQ(scores(GroupScore::largest), (std::pair{5.0, 3.0}));
  EXPECT_EQ(scores(GroupScore::top2_sum), (std::pair{6.0, 6.0}));
  EXPECT_EQ(scores(GroupScore::topk_over_g_sum), (std::pair{6.0, 5.0}));  // 3 / 1 of them
  c.score_func = ScoreFunc::sqrtsoftplus;
  EXPECT_EQ(scores(GroupScore::largest), (std::pair{5.0, 3.0}));
}

TEST(DiscardedGroupsTest, ZeroWinsOverNegativeScoresAndMinusInfinityNever) {
  const auto q = row({-1, -2, -3, -5, -6, -7});
  MoEConfig c = grouped(ScoreFunc::sigmoid, 1, 2, 1, true);
  EXPECT_EQ(select_experts(q, c), (Ids{3}));
  c.discarded_groups = DiscardedGroups::minus_infinity;
  EXPECT_EQ(select_experts(q, c), (Ids{0}));
  c.score_func = ScoreFunc::sigmoid_with_bias;
  c.discarded_groups = DiscardedGroups::by_score_func;
  EXPECT_EQ(select_experts(q, c), (Ids{0}));
  c.discarded_groups = DiscardedGroups::zero;
  EXPECT_EQ(select_experts(q, c), (Ids{3}));
}

TEST(TopK, PutsNaNFirstAndGivesNoIdTwice) {
  EXPECT_EQ(top_k(std::vector<double>{1, NAN, INFINITY, NAN}, 3), (Ids{1, 3, 2}));
  EXPECT_EQ(top_k(std::vector<double>(5, NAN), 5), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(top_k(std::vector<double>{-INFINITY, -INFINITY, 0.0}, 2), (Ids{2, 0}));
}

TEST(GroupScores, LargestOrSumOfTwo) {
  const auto q = row({5, 0, 0, 3, 3, 0});
  const auto largest = group_scores(q, grouped(ScoreFunc::sigmoid, 1, 2, 1, false));
  EXPECT_EQ(largest[0].value, 5.0);
  EXPECT_EQ(largest[1].value, 3.0);
  for (const auto& [score, correction] : {std::pair{ScoreFunc::sigmoid, true},
                                          {ScoreFunc::sigmoid_with_bias, false},
                                          {ScoreFunc::softmax_with_bias, false}}) {
    const auto two = group_scores(q, grouped(score, 1, 2, 1, correction));
    EXPECT_EQ(two[0].value, 5.0) << name(score);
    EXPECT_EQ(two[1].value, 6.0) << name(score);
  }
  EXPECT_TRUE(group_scores(q, grouped(ScoreFunc::softmax, 1, 2, 1, false)).empty());
  EXPECT_TRUE(group_scores(q, grouped(ScoreFunc::sqrtsoftplus, 1, 2, 1, true)).empty());
  EXPECT_TRUE(group_scores(q, grouped(ScoreFunc::sigmoid, 1, 1, 1, true)).empty());
}

TEST(GroupScores, AreAsUncertainAsTheirMembers) {
  auto q = row({5, 0, 0, 3, 3, 0});
  q[2].error = 0.5;  // not among the two largest, but an honest port's may be
  EXPECT_GE(group_scores(q, grouped(ScoreFunc::sigmoid, 1, 2, 1, false))[0].error, 0.5);
  EXPECT_GE(group_scores(q, grouped(ScoreFunc::sigmoid, 1, 2, 1, true))[0].error, 1.0);
  EXPECT_LT(group_scores(q, grouped(ScoreFunc::sigmoid, 1, 2, 1, true))[1].error, 1e-12);
}

TEST(Discard, ToZeroOrAway) {
  const std::vector<double> q{-1, -2, 3, 4};
  EXPECT_EQ(discard_groups(q, {true, false}, true), (std::vector<double>{-1, -2, 0, 0}));
  EXPECT_EQ(discard_groups(q, {false, true}, false), (std::vector<double>{-INFINITY, -INFINITY, 3, 4}));
}

TEST(SelectExperts, TheGroupDecidesFirst) {
  // Expert 0 has the largest score, but group 1 the largest sum of two.
  const auto q = row({5, 0, 0, 3, 3, 0});
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::sigmoid, 2, 2, 1, false)), (Ids{0, 1}));
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::sigmoid, 2, 2, 1, true)), (Ids{3, 4}));
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::softmax, 2, 2, 1, true)), (Ids{0, 3}));
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::sigmoid, 2, 2, 2, true)), (Ids{0, 3}));
}

TEST(SelectExperts, ADiscardedZeroBeatsNegativeScoresUnlessItIsExcluded) {
  // Group 1 wins with two positive scores; its third is negative, and experts of group 0 count as 0.
  const auto q = row({-5, -6, -7, 1, 2, -1});
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::sigmoid, 3, 2, 1, true)), (Ids{4, 3, 0}));
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::softmax_with_bias, 3, 2, 1, true)), (Ids{4, 3, 0}));
  EXPECT_EQ(select_experts(q, grouped(ScoreFunc::sigmoid_with_bias, 3, 2, 1, true)), (Ids{4, 3, 5}));
}

TEST(SelectExperts, EqualGroupsGoToTheFirst) {
  EXPECT_EQ(select_experts(row({1, 1, 1, 1, 1, 1}), grouped(ScoreFunc::sigmoid_with_bias, 2, 3, 1, false)),
            (Ids{0, 1}));
}

}  // namespace
}  // namespace moeref
