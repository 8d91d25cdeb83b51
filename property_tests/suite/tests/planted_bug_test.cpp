// Every planted bug must be found by the property that is there for it.
#include "property_tests/suite/tests/planted_bugs.hpp"

#include <gtest/gtest.h>

#include <cstdio>

#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "property_tests/mutants/holes.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

class PlantedBugTest : public testing::TestWithParam<PlantedBug> {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(PlantedBugTest, IsFoundAndRepeats) {
  const Property* property = find_property(GetParam().property);
  ASSERT_NE(property, nullptr) << GetParam().property;
  CpuReference sound;
  BuggyImplementation buggy(sound, GetParam());
  RunOptions options;
  options.cases = 200;
  options.seed = 7;
  options.declared = {
      .lowest_id_first = true, .repeatable = true, .batch_invariant = true, .counter_generator = true};
  const RunReport report = run_property(*property, buggy, options);
  ASSERT_EQ(report.status, RunStatus::failed)
      << report.passed << " passed, " << report.discarded << " discarded";
  ASSERT_TRUE(report.smallest.has_value());

  // The line alone shows the bug again, and nothing but the bug.
  const std::string line = to_line(*report.smallest);
  EXPECT_EQ(repeat_case(*property, buggy, line).kind, Outcome::Kind::failed) << line;
  const Outcome outcome = repeat_case(*property, sound, line);
  EXPECT_EQ(outcome.kind, Outcome::Kind::passed)
      << line << ": " << outcome.reason << to_string(outcome.finding);
  std::printf("%s\n  %s\n", repeat_line(report).c_str(), to_string(report.finding).c_str());
}

std::string test_name(const testing::TestParamInfo<PlantedBug>& info) {
  return std::string(info.param.name) + "_by_" + std::string(info.param.property);
}

INSTANTIATE_TEST_SUITE_P(Router, PlantedBugTest,
                         testing::ValuesIn(planted_router_bugs().begin(), planted_router_bugs().end()),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Expert, PlantedBugTest,
                         testing::ValuesIn(planted_expert_bugs().begin(), planted_expert_bugs().end()),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Gradient, PlantedBugTest,
                         testing::ValuesIn(planted_gradient_bugs().begin(), planted_gradient_bugs().end()),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Rank, PlantedBugTest,
                         testing::ValuesIn(planted_rank_bugs().begin(), planted_rank_bugs().end()),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Layer, PlantedBugTest,
                         testing::ValuesIn(planted_layer_bugs().begin(), planted_layer_bugs().end()),
                         test_name);

/// A property that no planted bug makes fail has not been seen to work.
TEST(PlantedBugs, EveryLayerPropertyHasOne) {
  std::vector<std::string_view> found;
  for (const auto bugs : {planted_router_bugs(), planted_expert_bugs(), planted_gradient_bugs(),
                          planted_rank_bugs(), planted_layer_bugs()})
    for (const PlantedBug& bug : bugs) found.push_back(bug.property);
  for (const Mutant& mutant : holes_mutants()) found.push_back(mutant.property);
  for (const Property& property : properties()) {
    const bool layer = property.id == "P27" || (property.id.size() == 3 && property.id >= "P36");
    // The reference itself is the bug of this one: see honest_port_test.cpp.
    if (!layer || property.needs == Needs::rounding) continue;
    EXPECT_NE(std::ranges::find(found, property.name), found.end()) << property.name;
  }
}

}  // namespace
}  // namespace moeref
