// Errors at one place of a large result: what the sample misses with a probability that can be computed, the
// third call sees wherever they are.
#include "reference_cpu/verdict/copied_tokens.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/tests/eager_port.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/verdict/sampled.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kCopiedTokens = 1000, kCopiedDim = 48, kCopiedInter = 4, kTile = 16;

/// Experts, two per token, normal numbers.
Call many_tokens() {
  MoEConfig c = small_config(6, 2, kCopiedDim, kCopiedInter);
  Call call = small_call(Component::experts, c, {}, true);
  const Shape shape{kCopiedTokens};
  for (const TensorSpec& spec :
       signature(Component::experts, call.config, call.options, shape, true).inputs) {
    if (!spec.required) continue;
    Tensor& out = call.tensors[spec.name] = Tensor(spec.dtype, spec.shape);
    const CounterGenerator random(5, spec.name);
    for (std::int64_t i = 0; i < out.size(); ++i) {
      const auto at = static_cast<std::uint64_t>(i);
      const auto id = static_cast<double>(random.integer(at, 3) + 3 * (at % 2));
      out.set(i, spec.dtype == DType::int64 ? id : 0.3 * random.normal(at));
    }
  }
  return call;
}

/// Right but for a tile of one result, at the same place in every call.
class WrongTile final : public Implementation {
 public:
  WrongTile(const char* result, std::int64_t row, std::int64_t column, std::int64_t side)
      : result_(result), row_(row), column_(column), side_(side) {}
  std::string name() const override { return "wrong tile"; }
  std::optional<std::string> unsupported(const Call& call) const override { return port_.unsupported(call); }
  NamedTensors run(const Call& call) override {
    NamedTensors out = port_.run(call);
    Tensor& tensor = out.at(result_);
    for (std::int64_t t = row_; t < std::min(kCopiedTokens, row_ + side_); ++t)
      for (std::int64_t c = column_; c < column_ + side_; ++c)
        tensor.set(t * kCopiedDim + c, tensor[t * kCopiedDim + c] + 0.01);
    return out;
  }
  bool holds(std::int64_t index) const {
    const std::int64_t t = index / kCopiedDim - row_, c = index % kCopiedDim - column_;
    return t >= 0 && t < side_ && c >= 0 && c < side_;
  }

 private:
  eager::EagerPort port_{{true, eager::Order::forward, true}};
  const char* result_;
  std::int64_t row_, column_, side_;
};

constexpr SampleSize kSample{.tokens = 8, .experts = 1, .units = 1};

struct Seen {
  bool by_sample = false, by_copies = false;
};

Seen seen(const Call& call, WrongTile& port, const char* result) {
  const NamedTensors dense = port.run(call);
  const SampledJudge judge(call, dense, kSample);
  const NamedTensors copies = port.run(judge.copies_call());
  Seen out;
  out.by_sample = judge.judge(nullptr, nullptr).verdict.verdict == Verdict::fail;
  const CaseVerdict verdict = judge.judge(nullptr, &copies).verdict;
  out.by_copies = verdict.verdict == Verdict::fail;
  const TensorVerdict* first = verdict.first_failure();
  if (!first) return out;
  EXPECT_EQ(first->tensor, result);
  EXPECT_TRUE(port.holds(first->index)) << first->index;
  return out;
}

TEST(CopiedTokensTest, EveryTileIsSeenWhereTheSampleMissesMost) {
  Call call = many_tokens();
  call.backward = false;
  call.tensors.erase("cotangents/y");
  int tiles = 0, by_sample = 0;
  // Inside, away from the edges that every sample has.
  for (std::int64_t row = 544; row + kTile <= 912; row += 6 * kTile) {
    WrongTile port("outputs/y", row, row / (6 * kTile) % 3 * kTile, kTile);
    const Seen tile = seen(call, port, "outputs/y");
    EXPECT_TRUE(tile.by_copies) << row;
    by_sample += tile.by_sample;
    ++tiles;
  }
  // A token in each of 8 stretches of 125: a tile of 16 rows is missed with probability 1 - 16 / 125,
  // but for the sample's last tokens of some experts.
  EXPECT_EQ(tiles, 4);
  EXPECT_LT(by_sample, 3);
}

TEST(CopiedTokensTest, OneElementOfTheGradientOfXIsSeen) {
  const Call call = many_tokens();
  WrongTile port("grads/x", 777, 17, 1);
  const Seen element = seen(call, port, "grads/x");
  EXPECT_FALSE(element.by_sample);
  EXPECT_TRUE(element.by_copies);
}

TEST(CopiedTokensTest, EachTokenIsACopyOfARandomOne) {
  const std::vector<std::int64_t> source = draw_copies(7, 50, 10000);
  ASSERT_EQ(source.size(), 10000u);
  std::vector<int> count(50, 0);
  for (const std::int64_t s : source) ++count.at(static_cast<std::size_t>(s));
  // 200 each, with a deviation of 14.
  EXPECT_GT(*std::ranges::min_element(count), 200 - 6 * 14);
  EXPECT_LT(*std::ranges::max_element(count), 200 + 6 * 14);
  EXPECT_NE(source, draw_copies(8, 50, 10000));
  EXPECT_TRUE(draw_copies(7, 0, 100).empty());
}

TEST(CopiedTokensTest, OtherExpertsThatTheBoundsAllowAreLeftOut) {
  // One token of two experts whose scores differ by less than their bounds, and a third one far below.
  Evaluation few;
  RoutingScores routing;
  routing.indices = "outputs/indices";
  routing.tokens = 1;
  routing.experts = 3;
  routing.k = 1;
  routing.score = {0.5, 0.5001, -1.0};
  routing.score_bound = {0.01, 0.01, 0.01};
  few.routing = {routing};
  few.results["outputs/indices"] = {DType::int64, {1, 1}, {1.0}, {0.0f}};
  few.results["outputs/weights"] = {DType::float32, {1, 1}, {0.7}, {0.01f}};
  NamedTensors results;
  Tensor& ids = results["outputs/indices"] = Tensor(DType::int64, {3, 1});
  Tensor& weights = results["outputs/weights"] = Tensor(DType::float32, {3, 1});
  ids.set(0, 1);
  ids.set(1, 0);
  ids.set(2, 1);
  for (int t = 0; t < 3; ++t) weights.set(t, 0.7);
  weights.set(1, 0.3);
  const std::vector<std::int64_t> source{0, 0, 0};

  CopiesVerdict verdict = judge_copies(few, source, results, "");
  EXPECT_EQ(verdict.open, 1);
  EXPECT_EQ(verdict.judged, 3 + 2);
  for (const TensorVerdict& t : verdict.tensors) EXPECT_EQ(t.verdict, Verdict::pass) << t.finding;

  ids.set(1, 2);
  verdict = judge_copies(few, source, results, "");
  EXPECT_EQ(verdict.tensors.front().verdict, Verdict::fail);
  EXPECT_EQ(verdict.tensors.front().index, 1);
  ids.set(1, 1);
  verdict = judge_copies(few, source, results, "");
  EXPECT_EQ(verdict.tensors.back().verdict, Verdict::fail);
  EXPECT_EQ(verdict.tensors.back().index, 1);
}

}  // namespace
}  // namespace moeref
