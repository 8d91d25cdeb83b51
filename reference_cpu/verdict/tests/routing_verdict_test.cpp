// routing_verdict.hpp: hand-made boxes of scores, and random perturbations inside a box, which are never
// wrong.
#include "reference_cpu/verdict/routing_verdict.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "reference_cpu/components/selection.hpp"

namespace moeref {
namespace {

RoutingScores box(std::int64_t k, std::vector<double> score, std::vector<double> bound) {
  RoutingScores r;
  r.indices = "outputs/indices";
  r.tokens = 1;
  r.experts = static_cast<std::int64_t>(score.size());
  r.k = k;
  r.score = std::move(score);
  r.score_bound = std::move(bound);
  return r;
}
RoutingScores grouped(RoutingScores r, std::int64_t limited, bool zero, std::vector<double> group,
                      std::vector<double> bound) {
  r.groups = static_cast<std::int64_t>(group.size());
  r.limited_groups = limited;
  r.discarded_groups_are_zero = zero;
  r.group = std::move(group);
  r.group_bound = std::move(bound);
  return r;
}
SelectionVerdict verdict(const RoutingScores& r, std::vector<std::int64_t> ids) {
  return judge_selection(r, 0, ids);
}

TEST(RoutingVerdict, CertifiedWhereTheBoundsLeaveOneSet) {
  const RoutingScores r = box(2, {5, 1, 4, 2}, {0.5, 0.5, 0.5, 0.5});
  EXPECT_EQ(verdict(r, {0, 2}).selection, Selection::own);
  EXPECT_TRUE(verdict(r, {0, 2}).certified);
  EXPECT_EQ(verdict(r, {2, 0}).selection, Selection::own);  // the order of slots carries no meaning
  EXPECT_EQ(verdict(r, {0, 3}).selection, Selection::wrong);
  EXPECT_NE(verdict(r, {0, 3}).finding.find("chose {0, 3} where the reference has {0, 2}"),
            std::string::npos);
}

TEST(RoutingVerdict, ExplainableWhereBoxesMeet) {
  const RoutingScores r = box(2, {5, 1, 4, 3.5}, {0.5, 0.1, 0.3, 0.3});
  EXPECT_FALSE(verdict(r, {0, 2}).certified);
  EXPECT_EQ(verdict(r, {0, 2}).selection, Selection::own);
  EXPECT_EQ(verdict(r, {0, 3}).selection, Selection::explainable);
  EXPECT_EQ(verdict(r, {2, 3}).selection, Selection::wrong);  // 5 - 0.5 is above 3.8 whatever happens
  EXPECT_EQ(verdict(r, {0, 1}).selection, Selection::wrong);
}

TEST(RoutingVerdict, TiedWhereScoresAreEqual) {
  const RoutingScores r = box(2, {5, 4, 4, 1}, {0, 0, 0, 0});
  EXPECT_EQ(verdict(r, {0, 1}).selection, Selection::own);
  EXPECT_FALSE(verdict(r, {0, 1}).certified);
  EXPECT_EQ(verdict(r, {0, 2}).selection, Selection::tied);
  EXPECT_EQ(verdict(r, {1, 2}).selection, Selection::wrong);
}

TEST(RoutingVerdict, InvalidIds) {
  const RoutingScores r = box(2, {5, 4, 3}, {9, 9, 9});
  EXPECT_EQ(verdict(r, {0, 3}).selection, Selection::invalid);
  EXPECT_EQ(verdict(r, {-1, 1}).selection, Selection::invalid);
  EXPECT_EQ(verdict(r, {1, 1}).selection, Selection::invalid);
  EXPECT_NE(verdict(r, {1, 1}).finding.find("comes twice"), std::string::npos);
  EXPECT_NE(verdict(r, {0, 3}).finding.find("outside [0, 3)"), std::string::npos);
}

TEST(RoutingVerdict, AllExpertsAreAlwaysCertain) {
  const RoutingScores r = box(3, {5, 4, 3}, {9, 9, INFINITY});
  EXPECT_EQ(verdict(r, {2, 1, 0}).selection, Selection::own);
  EXPECT_TRUE(verdict(r, {2, 1, 0}).certified);
}

TEST(RoutingVerdict, WithoutBoundsAnyExpertMayWin) {
  const RoutingScores r = box(1, {5, 4, 3}, {INFINITY, INFINITY, 0});
  EXPECT_EQ(verdict(r, {1}).selection, Selection::explainable);
  EXPECT_EQ(verdict(r, {2}).selection, Selection::explainable);
}

TEST(RoutingVerdict, GroupsAreJudgedFirst) {
  // Group scores 6 and 5.8 +- 0.2 are open; the experts inside are not.
  const RoutingScores open = grouped(box(1, {6, 1, 5.8, 2}, {0, 0, 0, 0}), 1, false, {6, 5.8}, {0.1, 0.2});
  EXPECT_EQ(verdict(open, {0}).selection, Selection::own);
  EXPECT_FALSE(verdict(open, {0}).certified);
  EXPECT_EQ(verdict(open, {2}).selection, Selection::explainable);
  EXPECT_EQ(verdict(open, {1}).selection, Selection::wrong);
  EXPECT_EQ(verdict(open, {3}).selection, Selection::wrong);
  const RoutingScores closed =
      grouped(box(1, {6, 1, 5.8, 2}, {9, 9, 9, 9}), 1, false, {6, 5.8}, {0.05, 0.05});
  EXPECT_EQ(verdict(closed, {1}).selection, Selection::explainable);
  EXPECT_EQ(verdict(closed, {2}).selection, Selection::wrong);  // its group is out in any case
}

TEST(RoutingVerdict, DiscardedGroupsAreZeroOrExcluded) {
  const RoutingScores zero = grouped(box(2, {3, -1, -5, -6}, {0, 0, 0, 0}), 1, true, {2, -11}, {0, 0});
  EXPECT_EQ(verdict(zero, {0, 2}).selection, Selection::own);  // 0 of the discarded group beats -1
  EXPECT_EQ(verdict(zero, {0, 3}).selection, Selection::tied);
  EXPECT_EQ(verdict(zero, {0, 1}).selection, Selection::wrong);
  const RoutingScores excluded = grouped(box(2, {3, -1, -5, -6}, {0, 0, 0, 0}), 1, false, {2, -11}, {0, 0});
  EXPECT_EQ(verdict(excluded, {0, 1}).selection, Selection::own);
  EXPECT_EQ(verdict(excluded, {0, 2}).selection, Selection::wrong);
}

TEST(RoutingVerdict, ADiscardedScoreThatIsNotFiniteMayBecomeNaN) {
  const double inf = INFINITY;
  // Group 1 is discarded: its expert 2 scores 0 times infinity, which beats or loses to expert 1.
  for (const double bound : {0.0, inf}) {
    const auto r = grouped(box(2, {5, 1, inf, -3}, {0, 0, bound, 0}), 1, true, {9, 8}, {0, 0});
    EXPECT_EQ(verdict(r, {0, 1}).selection, Selection::own);
    EXPECT_FALSE(verdict(r, {0, 1}).certified);
    EXPECT_LE(verdict(r, {0, 2}).selection, Selection::explainable);
    EXPECT_EQ(verdict(r, {0, 3}).selection, Selection::wrong);  // -3 becomes 0 in any port
    EXPECT_TRUE(has_nan(r, 0));
    EXPECT_FALSE(settled_but_for_ties(r, 0, std::vector<std::int64_t>{0, 1}));
  }
  // A score that may be anything finite or not, too; minus infinity replaces whatever was there.
  const auto open = grouped(box(2, {5, 1, 2, -3}, {0, 0, inf, 0}), 1, true, {9, 8}, {0, 0});
  EXPECT_LE(verdict(open, {0, 2}).selection, Selection::explainable);
  const auto excluded = grouped(box(2, {5, 1, inf, -3}, {0, 0, inf, 0}), 1, false, {9, 8}, {0, 0});
  EXPECT_TRUE(verdict(excluded, {0, 1}).certified);
  EXPECT_EQ(verdict(excluded, {0, 2}).selection, Selection::wrong);
  EXPECT_FALSE(has_nan(excluded, 0));
}

TEST(RoutingVerdict, EqualGroupsAreTied) {
  const RoutingScores r = grouped(box(1, {3, 1, 3, 1}, {0, 0, 0, 0}), 1, false, {4, 4}, {0, 0});
  EXPECT_EQ(verdict(r, {0}).selection, Selection::own);
  EXPECT_EQ(verdict(r, {2}).selection, Selection::tied);
}

TEST(RoutingVerdict, NaNOrdersNothing) {
  const RoutingScores r = box(1, {NAN, 4, 3}, {0, 0, 0});
  EXPECT_FALSE(verdict(r, {0}).certified);
  EXPECT_LT(verdict(r, {1}).selection, Selection::wrong);  // NaN may come last as well as first
  EXPECT_EQ(verdict(r, {2}).selection, Selection::wrong);
  const RoutingScores none = box(2, {NAN, NAN, NAN}, {0, 0, 0});
  EXPECT_LT(verdict(none, {1, 2}).selection, Selection::wrong);
  EXPECT_EQ(verdict(none, {1, 1}).selection, Selection::invalid);
}

/// Scores drawn inside the box, selected plainly, are never wrong; and a certified token keeps its set.
TEST(RoutingVerdict, PerturbationsInsideTheBoxAreNeverWrong) {
  std::mt19937_64 bits(17);
  const auto uniform = [&] { return static_cast<double>(bits() >> 11) * 0x1p-53; };
  std::int64_t explained = 0, certified = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    const bool groups = trial % 2 == 1, zero = trial % 4 == 1, pairs = trial % 8 < 4;
    const std::size_t experts = 8, size = 4;
    std::vector<double> score, bound, moved;
    for (std::size_t i = 0; i < experts; ++i) {
      score.push_back(std::round(8.0 * (uniform() - 0.5)) / 2.0 + (uniform() < 0.5 ? 0.0 : 0.2 * uniform()));
      bound.push_back(uniform() < 0.3 ? 0.0 : 0.4 * uniform());
      const double side = uniform() < 0.5 ? (uniform() < 0.5 ? -1.0 : 1.0) : 2.0 * uniform() - 1.0;
      moved.push_back(score.back() + side * bound.back());
    }
    RoutingScores r = box(1 + static_cast<std::int64_t>(bits() % 3), score, bound);
    std::vector<double> q = moved;
    if (groups) {
      std::vector<double> group, group_bound, moved_group;
      const auto total = [&](const std::vector<double>& s, std::size_t g) {
        std::vector<double> members(s.begin() + g * size, s.begin() + (g + 1) * size);
        std::sort(members.rbegin(), members.rend());
        return members[0] + (pairs ? members[1] : 0.0);
      };
      for (std::size_t g = 0; g < experts / size; ++g) {
        group.push_back(total(score, g));
        group_bound.push_back((pairs ? 2.0 : 1.0) * *std::max_element(bound.begin() + g * size,
                                                                      bound.begin() + (g + 1) * size) +
                              1e-12);
        moved_group.push_back(total(moved, g));
      }
      r = grouped(std::move(r), 1, zero, group, group_bound);
      std::vector<bool> kept(group.size(), false);
      kept[static_cast<std::size_t>(top_k(moved_group, 1)[0])] = true;
      q = discard_groups(moved, kept, zero);
    }
    const auto ids = top_k(q, r.k);
    const SelectionVerdict v = verdict(r, ids);
    ASSERT_LT(v.selection, Selection::wrong) << "trial " << trial << ": " << v.finding;
    if (v.certified) {
      ASSERT_EQ(v.selection, Selection::own);
    }
    explained += v.selection == Selection::explainable;
    certified += v.certified;
  }
  EXPECT_GT(explained, 1000);  // the trials reach both sides of the criterion
  EXPECT_GT(certified, 1000);
}

/// And whatever is called explainable without groups has a witness: the extremal corner of the box selects
/// it.
TEST(RoutingVerdict, ExplainableSetsHaveAWitness) {
  std::mt19937_64 bits(19);
  const auto uniform = [&] { return static_cast<double>(bits() >> 11) * 0x1p-53; };
  std::int64_t wrong = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    std::vector<double> score, bound;
    for (int i = 0; i < 6; ++i) {
      score.push_back(uniform());
      bound.push_back(0.3 * uniform());
    }
    std::vector<std::int64_t> ids{0, 1, 2, 3, 4, 5};
    std::shuffle(ids.begin(), ids.end(), bits);
    ids.resize(2);
    const SelectionVerdict v = verdict(box(2, score, bound), ids);
    std::vector<double> corner;
    for (std::size_t i = 0; i < 6; ++i) corner.push_back(score[i] - bound[i]);
    for (const std::int64_t id : ids)
      corner[static_cast<std::size_t>(id)] += 2.0 * bound[static_cast<std::size_t>(id)];
    auto best = top_k(corner, 2);
    std::ranges::sort(best);
    std::ranges::sort(ids);
    ASSERT_EQ(v.selection < Selection::wrong, best == ids);
    wrong += v.selection == Selection::wrong;
  }
  EXPECT_GT(wrong, 500);
}

}  // namespace
}  // namespace moeref
