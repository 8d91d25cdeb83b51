// Sums over cases, and the exit code that follows from them.
#include "tools/report/report.hpp"

#include <gtest/gtest.h>

#include "tools/report/tests/sample_report.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

using testing::failing_case;
using testing::passing_case;
using testing::sample_report;
using testing::unjudged_case;

CaseReport ambiguous_case(std::int64_t tokens, std::int64_t ambiguous) {
  CaseReport report = passing_case("ties");
  report.verdict = Verdict::ambiguous;
  report.tokens = tokens;
  report.ambiguous_tokens = ambiguous;
  return report;
}

TEST(ReportTest, CountsByComponent) {
  const Report report = sample_report(
      {passing_case(), failing_case(), passing_case("a", Component::mlp), ambiguous_case(10, 1)});
  const auto sums = report.by_component();
  ASSERT_EQ(sums.size(), 2u);
  EXPECT_EQ(sums.at(Component::gate).cases, 3);
  EXPECT_EQ(sums.at(Component::gate).count(Verdict::pass), 1);
  EXPECT_EQ(sums.at(Component::gate).count(Verdict::fail), 1);
  EXPECT_EQ(sums.at(Component::gate).count(Verdict::ambiguous), 1);
  EXPECT_EQ(sums.at(Component::gate).tokens, 37 + 37 + 10);
  EXPECT_EQ(sums.at(Component::mlp).count(Verdict::pass), 1);
  EXPECT_EQ(report.total().cases, 4);
}

TEST(ReportTest, NamesTheWorstTensor) {
  const Report report = sample_report({passing_case(), failing_case()});
  const Summary sum = report.total();
  ASSERT_NE(sum.worst, nullptr);
  EXPECT_EQ(sum.worst->verdict.tensor, "grads/x");
  EXPECT_EQ(sum.worst_case, &report.cases[1]);
  EXPECT_EQ(report.cases[1].first_failure()->verdict.tensor, "outputs/weights");
}

TEST(ReportTest, ExitCodes) {
  EXPECT_EQ(sample_report({passing_case()}).exit_code(), kExitPassed);
  EXPECT_EQ(sample_report({passing_case(), ambiguous_case(10, 1)}).exit_code(), kExitPassed);
  EXPECT_EQ(sample_report({passing_case(), failing_case()}).exit_code(), kExitFailed);
  EXPECT_EQ(sample_report({passing_case(), unjudged_case(Verdict::not_supported, "no")}).exit_code(),
            kExitPassed);
  EXPECT_EQ(sample_report({failing_case(), unjudged_case(Verdict::crashed, "signal 11")}).exit_code(),
            kExitCrashed);
  EXPECT_EQ(sample_report({passing_case(), unjudged_case(Verdict::hung, "60 s")}).exit_code(), kExitCrashed);
}

TEST(ReportTest, NothingThatRanIsNoPass) {
  EXPECT_EQ(sample_report({unjudged_case(Verdict::not_supported, "no")}).exit_code(), kExitFailed);
  EXPECT_EQ(sample_report({unjudged_case(Verdict::waived, "#1")}).exit_code(), kExitFailed);
  EXPECT_EQ(sample_report({}).exit_code(), kExitFailed);
  EXPECT_NE(sample_report({}).run_finding(), "");
}

TEST(ReportTest, ManyAmbiguousTokensFailTheRun) {
  EXPECT_EQ(sample_report({ambiguous_case(2200, 22)}).run_finding(), "");
  const Report report = sample_report({ambiguous_case(2200, 23)});
  EXPECT_NE(report.run_finding().find("23 of 2200 tokens"), std::string::npos) << report.run_finding();
  EXPECT_EQ(report.exit_code(), kExitFailed);
}

TEST(ReportTest, Coordinates) {
  EXPECT_EQ(coordinates(13, {37, 2}), "[6, 1]");
  EXPECT_EQ(coordinates(0, {}), "[]");
  EXPECT_EQ(coordinates(5, {8}), "[5]");
  EXPECT_EQ(testing::tensor(Subject::port, "outputs/y", Verdict::fail, 2.0, 13, {37, 2}).place(),
            "outputs/y[6, 1]");
  EXPECT_EQ(testing::tensor(Subject::port, "outputs/aux_loss", Verdict::fail, 2.0, 0, {}).place(),
            "outputs/aux_loss");
  EXPECT_EQ(testing::tensor(Subject::port, "outputs/y", Verdict::fail, 2.0, -1, {37, 2}).place(),
            "outputs/y");
}

TEST(ReportTest, SaysWhoCertifiedAndWhatIsHidden) {
  CaseReport many = testing::passing_case();
  many.tokens = 257;
  many.uncertified_tokens = 250;
  many.experts = 256;
  const std::string hidden = testing::sample_report({many}).hidden_stages();
  EXPECT_NE(hidden.find("250 of 257 tokens could be certified by nothing"), std::string::npos) << hidden;
  EXPECT_NE(hidden.find("show stages/logits"), std::string::npos) << hidden;
  many.shows_scores = true;
  many.own_certified_tokens = 240;
  const Report shown = testing::sample_report({many});
  EXPECT_EQ(shown.hidden_stages(), "");
  EXPECT_EQ(
      shown.certified_shares(),
      "choices of experts: 7 (2.72 %) certified by the reference's bounds, 240 (93.4 %) by own logits or "
      "scores, 10 (3.89 %) by neither");
  many.experts = 8;
  many.shows_scores = false;
  EXPECT_EQ(testing::sample_report({many}).hidden_stages(), "");
}

}  // namespace
}  // namespace moeref
