// Findings in words.
#include "tools/report/findings.hpp"

#include <gtest/gtest.h>

#include "tools/report/tests/sample_report.hpp"

namespace moeref {
namespace {

TEST(FindingsTest, SaysElementValueReferenceBoundAndRatio) {
  EXPECT_EQ(
      headline(testing::failing_case()),
      "FAIL: port outputs/weights[6, 1] = 0.25, reference 0.5, bound 0.001, r = 42.5; outside the bound");
}

TEST(FindingsTest, SaysWhyNothingWasJudged) {
  EXPECT_EQ(headline(testing::unjudged_case(Verdict::crashed, "signal\n11")), "CRASHED: signal?11");
  EXPECT_EQ(headline(testing::unjudged_case(Verdict::not_supported, "no float64")),
            "NOT_SUPPORTED: no float64");
}

TEST(FindingsTest, WrongExpertsAreNoNumbers) {
  TensorFinding finding =
      testing::tensor(Subject::port, "outputs/indices", Verdict::fail, INFINITY, 6, {37, 2});
  finding.verdict.finding = "token 3: chose {1, 2}";
  EXPECT_EQ(describe(finding), "port outputs/indices[3, 0]: token 3: chose {1, 2}");
}

TEST(FindingsTest, ShowsDigitsUntilValuesDiffer) {
  TensorFinding finding = testing::tensor(Subject::recorded, "outputs/y", Verdict::fail, 3.0, 0, {1});
  finding.verdict.value = 1.0;
  finding.verdict.reference = 1.0 + 1e-15;
  EXPECT_NE(describe(finding).find("reference 1.0000000000000011"), std::string::npos) << describe(finding);
}

TEST(FindingsTest, ListsUpToALimitAndTheLineThatRepeats) {
  const CaseReport report = testing::failing_case();
  const auto lines = finding_lines(report, 1);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], describe(report.tensors[0]));
  EXPECT_EQ(lines[1], "and 1 more: grads/x");
  EXPECT_EQ(lines[2], "about: " + about(report));
  EXPECT_EQ(lines[3], "repeat: " + report.repeat);
}

TEST(FindingsTest, SaysWhatTheCaseIsAbout) {
  CaseReport report = testing::failing_case();
  report.note = "All biased scores are negative.";
  report.flags = {"O5", "X9", "A1"};
  EXPECT_EQ(about(report),
            "All biased scores are negative. Catches O5 (A maximum starts at 0, or an index at -1: the wrong "
            "experts when all scores are negative), X9, A1");
  report.note.clear();
  report.flags.clear();
  EXPECT_EQ(about(report), "");
  EXPECT_EQ(finding_lines(report, 1).size(), 3u);
}

}  // namespace
}  // namespace moeref
