// The ladder of sizes: what is drawn stays within its budget, every step comes, rows are exact, and shrinking
// ends at the smallest extent that fails.
#include "property_tests/descriptor/extents.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "property_tests/suite/answer.hpp"

namespace moeref {
namespace {

constexpr SizeRange kAlways{.ladder_percent = 100};

TEST(Extents, StepsOfTheLadderAreAroundItsBases) {
  EXPECT_TRUE(std::ranges::is_sorted(ladder()));
  for (const std::int64_t base : {8, 64, 96, 160, 256, 1024, 4096, 65536})
    for (const std::int64_t step : {base - 1, base, base + 1})
      EXPECT_TRUE(std::ranges::binary_search(ladder(), step)) << step;
  EXPECT_EQ(step_below(300), 257);
  EXPECT_EQ(step_below(257), 256);
  EXPECT_EQ(step_below(7), 6);
}

TEST(Extents, DrawnCallsStayWithinTheirBudget) {
  for (const Component component : kComponents)
    for (std::uint64_t bits = 0; bits < 300; ++bits) {
      const Descriptor d = draw_descriptor(component, bits, kAlways);
      EXPECT_LE(multiply_adds(d), kAlways.multiply_adds) << to_line(d);
      EXPECT_LE(largest_tensor(d), kAlways.elements) << to_line(d);
    }
}

TEST(Extents, ExtentsAloneDependOnTheLadder) {
  int large = 0;
  for (std::uint64_t bits = 0; bits < 300; ++bits) {
    Descriptor with = draw_descriptor(Component::mlp, bits),
               without = draw_descriptor(Component::mlp, bits, {.ladder_percent = 0});
    large += with != without;
    with.T = without.T;
    with.D = without.D;
    with.I = without.I;
    with.E = without.E;
    with.k = without.k;
    with.groups = without.groups;
    with.limited = without.limited;
    with.logits = without.logits;
    with.steps = without.steps;
    with.micro = without.micro;
    EXPECT_EQ(with, without) << to_line(with);
  }
  EXPECT_GT(large, 15);
  EXPECT_LT(large, 60);
}

TEST(Extents, EveryKindOfExtentPassesTheCommonBlockSizes) {
  std::map<std::string, std::int64_t> largest;
  const auto note = [&](const char* name, std::int64_t extent) {
    largest[name] = std::max(largest[name], extent);
  };
  bool at_128_of_8 = false;
  for (std::uint64_t bits = 0; bits < 400; ++bits)
    for (const Component component : {Component::gate, Component::experts}) {
      const Descriptor d = draw_descriptor(component, bits, {.multiply_adds = 0x1p24, .ladder_percent = 100});
      note("T", d.T);
      note("E", d.E);
      note("k", d.k);
      note("D", d.D);
      note("rows", d.rows);
      note("T k", d.T * d.k);
      at_128_of_8 = at_128_of_8 || (d.E == 128 && d.k == 8);
    }
  EXPECT_GT(largest["T"], 65536);
  EXPECT_EQ(largest["E"], 1024);
  EXPECT_EQ(largest["k"], 64);
  EXPECT_GE(largest["D"], 16384);
  EXPECT_GT(largest["rows"], 1024);
  EXPECT_GT(largest["T k"], 65536);
  EXPECT_TRUE(at_128_of_8);
}

TEST(Extents, OneExpertHasExactlyTheRowsAskedFor) {
  for (const char* line :
       {"experts T=9 E=5 k=2 ids=rows rows=7 seed=3", "experts T=600 E=3 k=1 ids=rows rows=513 seed=8",
        "experts T=65 E=4 k=4 ids=rows rows=65 seed=2",
        "moe T=20 E=9 k=8 D=9 replay=true ids=rows rows=1 seed=4"}) {
    const Descriptor d = parse_descriptor(line);
    Descriptor again = d;
    repair(again);
    EXPECT_EQ(again, d) << line;
    const Call call = make_call(d);
    const Tensor& ids =
        call.tensors.at(d.component == Component::moe ? "inputs/replay_indices" : "inputs/indices");
    std::vector<std::int64_t> rows(static_cast<std::size_t>(d.E));
    for (std::int64_t t = 0; t < d.T; ++t) {
      std::set<double> distinct;
      for (std::int64_t j = 0; j < d.k; ++j) {
        distinct.insert(ids[t * d.k + j]);
        ++rows[static_cast<std::size_t>(ids[t * d.k + j])];
      }
      EXPECT_EQ(distinct.size(), static_cast<std::size_t>(d.k)) << line;
    }
    EXPECT_EQ(rows[d.seed % static_cast<std::uint64_t>(d.E)], d.rows) << line;
  }
}

TEST(Extents, SmallerExtentsGoFromNothingToOneBelow) {
  for (const std::int64_t extent : {1, 2, 5, 9, 300, 65537}) {
    const std::vector<std::int64_t> smaller = smaller_extents(extent);
    EXPECT_EQ(smaller.front(), 0);
    EXPECT_TRUE(std::ranges::find(smaller, extent - 1) != smaller.end());
    EXPECT_TRUE(std::ranges::all_of(smaller, [&](std::int64_t s) { return s < extent; }));
  }
}

/// Fails from an extent on that is no step of the ladder, or in a window.
RunReport report_of(void (*check)(Implementation&, const Descriptor&)) {
  static std::vector<Property> kept;
  kept.reserve(8);
  kept.push_back({"T1", "of_an_extent", {Component::mlp}, PropertyClass::exact, "", {}, nullptr, check});
  kept.back().sizes = Sizes::ladder;
  CpuReference cpu;
  RunOptions options;
  options.seed = 4;
  options.cases = 400;
  return run_property(kept.back(), cpu, options);
}

TEST(Extents, ShrinkingEndsAtTheSmallestThatFailsAndNamesIt) {
  const RunReport from = report_of([](Implementation& impl, const Descriptor& d) {
    impl.run(make_call(parse_descriptor("mlp seed=0")));
    if (d.D >= 83) fail({"outputs/y", 0, 1.0, 0.0, 0.0, ""});
  });
  ASSERT_EQ(from.status, RunStatus::failed);
  EXPECT_EQ(to_line(*from.smallest), "mlp D=83 seed=0");
  EXPECT_EQ(from.thresholds, std::vector<std::string>{"wrong from 83 columns on (82 pass)"});

  const RunReport at = report_of([](Implementation& impl, const Descriptor& d) {
    impl.run(make_call(parse_descriptor("mlp seed=0")));
    if (d.I == 128) fail({"outputs/y", 0, 1.0, 0.0, 0.0, ""});
  });
  ASSERT_EQ(at.status, RunStatus::failed);
  EXPECT_EQ(at.thresholds, std::vector<std::string>{"wrong at 128 hidden columns, right at 127 and at 129"});
}

}  // namespace
}  // namespace moeref
