// The order of a sum, recovered from sums that are really made in float, in orders that are known.
#include "tools/judging/summation_tree.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>

namespace moeref {
namespace {

using Floats = std::vector<float>;
using FloatSum = std::function<float(const Floats&)>;

float sequential(const Floats& x) { return std::accumulate(x.begin(), x.end(), 0.0f); }
float from_the_last(const Floats& x) { return std::accumulate(x.rbegin(), x.rend(), 0.0f); }
float pairwise(const Floats& x) {
  if (x.size() <= 1) return x.empty() ? 0.0f : x[0];
  const auto half = x.begin() + static_cast<long>(x.size() / 2);
  return pairwise({x.begin(), half}) + pairwise({half, x.end()});
}
/// Four running sums over every fourth term, as a SIMD loop keeps them, added as a horizontal sum adds.
float four_lanes(const Floats& x) {
  float lane[4] = {};
  for (std::size_t i = 0; i < x.size(); ++i) lane[i % 4] += x[i];
  return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}
float blocks_of_16(const Floats& x) {
  float sum = 0.0f;
  for (std::size_t i = 0; i < x.size(); i += 16) {
    float block = 0.0f;
    for (std::size_t j = i; j < std::min(i + 16, x.size()); ++j) block = std::fma(x[j], 1.0f, block);
    sum += block;
  }
  return sum;
}
/// What tensor cores do: the running sum and 8 terms are aligned to the largest of them, cut off below its
/// 24th bit, and added exactly.
float chunks_of_8(const Floats& x) {
  float sum = 0.0f;
  for (std::size_t i = 0; i < x.size(); i += 8) {
    Floats all{sum};
    for (std::size_t j = i; j < std::min(i + 8, x.size()); ++j) all.push_back(x[j]);
    int most = -1000;
    for (const float v : all)
      if (v != 0.0f) most = std::max(most, std::ilogb(v));
    const double unit = std::ldexp(1.0, most - 23);
    double exact = 0.0;
    for (const float v : all) exact += std::trunc(v / unit) * unit;
    sum = static_cast<float>(exact);
  }
  return sum;
}
float two_blocks_of_lanes(const Floats& x) {
  const auto half = x.begin() + static_cast<long>(x.size() / 2);
  return four_lanes({x.begin(), half}) + four_lanes({half, x.end()});
}

MeetingSizes sizes_of(const FloatSum& sum, std::int64_t n) {
  MeetingSizes out(n);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = i + 1; j < n; ++j) {
      Floats x(static_cast<std::size_t>(n), 1.0f);
      x[static_cast<std::size_t>(i)] = 0x1p60f;
      x[static_cast<std::size_t>(j)] = -0x1p60f;
      out.set(i, j, n - std::lround(sum(x)));
    }
  return out;
}
SummationTree tree_of(const FloatSum& sum, std::int64_t n) { return recover_tree(sizes_of(sum, n)); }

TEST(SummationTreeTest, SmallTreesAsTheyAre) {
  EXPECT_EQ(to_string(tree_of(sequential, 4)), "(((0 1) 2) 3)");
  EXPECT_EQ(to_string(tree_of(from_the_last, 4)), "(0 (1 (2 3)))");
  EXPECT_EQ(to_string(tree_of(pairwise, 5)), "((0 1) (2 (3 4)))");
  EXPECT_EQ(to_string(tree_of(four_lanes, 8)), "(((0 4) (1 5)) ((2 6) (3 7)))");
  EXPECT_EQ(to_string(tree_of(chunks_of_8, 10)), "{{0 1 2 3 4 5 6 7} 8 9}");
  EXPECT_EQ(to_string(tree_of(sequential, 1)), "0");
}

TEST(SummationTreeTest, RegularShapesHaveWords) {
  EXPECT_EQ(in_words(tree_of(sequential, 64)), "sequential");
  EXPECT_EQ(in_words(tree_of(from_the_last, 64)), "sequential, from the last term");
  EXPECT_EQ(in_words(tree_of(pairwise, 64)), "pairwise");
  EXPECT_EQ(in_words(tree_of(pairwise, 37)), "pairwise");
  EXPECT_EQ(in_words(tree_of(four_lanes, 64)), "4 lanes, each sequential, then pairwise");
  EXPECT_EQ(in_words(tree_of(blocks_of_16, 64)), "blocks of 16, each sequential, then sequential");
  EXPECT_EQ(in_words(tree_of(chunks_of_8, 64)), "chunks of 8 at once, one after the other");
  EXPECT_EQ(in_words(tree_of(chunks_of_8, 8)), "all 8 at once");
  EXPECT_EQ(in_words(tree_of(two_blocks_of_lanes, 64)),
            "blocks of 32, each 4 lanes, each sequential, then pairwise, then sequential");
}

TEST(SummationTreeTest, OthersHaveNone) {
  // 0 and 1 apart from the rest, which is pairwise.
  const auto odd = [](const Floats& x) { return (x[0] + x[1]) + pairwise({x.begin() + 2, x.end()}); };
  const SummationTree tree = tree_of(odd, 9);
  EXPECT_EQ(in_words(tree), "");
  EXPECT_EQ(to_string(tree), "((0 1) ((2 (3 4)) ((5 6) (7 8))))");
}

TEST(SummationTreeTest, WhatIsNoTreeIsSaid) {
  // An exact sum loses nothing.
  const auto exact = [](const Floats& x) {
    double sum = 0.0;
    for (const float v : x) sum += std::abs(v) > 1.0f ? 0.0 : v;
    return static_cast<float>(sum);
  };
  EXPECT_THROW(tree_of(exact, 6), std::runtime_error);
  MeetingSizes cyclic(3);
  cyclic.set(0, 1, 2);
  cyclic.set(1, 2, 2);
  cyclic.set(0, 2, 2);
  EXPECT_THROW(recover_tree(cyclic), std::runtime_error);
}

}  // namespace
}  // namespace moeref
