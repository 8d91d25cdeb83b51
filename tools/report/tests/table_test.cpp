// The report for people.
#include "tools/report/table.hpp"

#include <gtest/gtest.h>

#include "tools/report/tests/sample_report.hpp"
#include "tools/tests/holds.hpp"

namespace moeref {
namespace {

TEST(TableTest, HasARowAComponentAndTheFailures) {
  const std::string text =
      table_text(testing::sample_report({testing::passing_case(), testing::failing_case(),
                                         testing::passing_case("c", Component::mlp)}),
                 {});
  EXPECT_TRUE(holds(text, "moeref 1.2.3, port results:out: this with that\n")) << text;
  EXPECT_TRUE(holds(
      text,
      "component  cases  PASS  FAIL  worst r  tokens  uncertified  tied  ambiguous  where r is worst\n"))
      << text;
  EXPECT_TRUE(holds(text, "gate           2     1     1      inf      74            0     0          0  "))
      << text;
  EXPECT_TRUE(holds(text, "mlp            1     1     .      0.5      37            0     0          0  "))
      << text;
  EXPECT_TRUE(holds(text, "port outputs/weights[6, 1] = 0.25, reference 0.5, bound 0.001, r = 42.5")) << text;
  EXPECT_TRUE(holds(text, "  repeat: moeref validate --port results:out ")) << text;
  EXPECT_TRUE(holds(text, "FAILED 2 of 3 cases passed (2 PASS, 1 FAIL) in 1.5 s\n")) << text;
  EXPECT_FALSE(holds(text, "\033"));
}

TEST(TableTest, ShowsColumnsOfVerdictsThatOccur) {
  const std::string text =
      table_text(testing::sample_report(
                     {testing::passing_case(), testing::unjudged_case(Verdict::not_supported, "no float64")}),
                 {});
  EXPECT_TRUE(holds(text, "PASS  NOT_SUPPORTED  FAIL"));
  EXPECT_FALSE(holds(text, "CRASHED"));
  EXPECT_TRUE(holds(text, "PASSED 1 of 2 cases passed (1 PASS, 1 NOT_SUPPORTED)")) << text;
}

TEST(TableTest, QuietLeavesTheFailures) {
  const Report report = testing::sample_report({testing::passing_case(), testing::failing_case()});
  const std::string text = table_text(report, {false, true});
  EXPECT_FALSE(holds(text, "component"));
  EXPECT_TRUE(holds(text, "FAIL golden/gate__"));
  EXPECT_EQ(table_text(testing::sample_report({testing::passing_case()}), {false, true}),
            "PASSED 1 of 1 cases passed (1 PASS) in 1.5 s\n");
}

TEST(TableTest, Colours) {
  EXPECT_TRUE(holds(table_text(testing::sample_report({testing::failing_case()}), {true, true}),
                    "\033[31mFAILED\033[0m"));
}

TEST(TableTest, ManyFailuresAreCut) {
  const std::string text =
      table_text(testing::sample_report(std::vector<CaseReport>(25, testing::failing_case())), {false, true});
  EXPECT_TRUE(holds(text, "5 more cases failed; --json lists them all.")) << text;
}

}  // namespace
}  // namespace moeref
