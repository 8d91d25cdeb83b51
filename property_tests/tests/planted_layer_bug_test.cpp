// Every planted bug of experts, MLP and layer must be found by the property that is there for it.
#include <gtest/gtest.h>

#include "moeref/parallel_for.hpp"
#include "moeref/reference.hpp"
#include "moeref/runner.hpp"
#include "planted_layer_bugs.hpp"

namespace moeref {
namespace {

class PlantedLayerBugTest : public testing::TestWithParam<PlantedBug> {
 protected:
  void SetUp() override { set_thread_count(1); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(PlantedLayerBugTest, IsFoundAndRepeats) {
  const Property* property = find_property(GetParam().property);
  ASSERT_NE(property, nullptr) << GetParam().property;
  CpuReference sound;
  BuggyImplementation buggy(sound, GetParam());
  RunOptions options;
  options.cases = 200;
  options.seed = 7;
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

INSTANTIATE_TEST_SUITE_P(All, PlantedLayerBugTest,
                         testing::ValuesIn(planted_layer_bugs().begin(), planted_layer_bugs().end()),
                         test_name);

}  // namespace
}  // namespace moeref
