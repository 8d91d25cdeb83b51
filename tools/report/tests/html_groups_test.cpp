#include "tools/report/html_groups.hpp"

#include <gtest/gtest.h>

#include "tools/report/tests/sample_report.hpp"
#include "tools/tests/holds.hpp"

namespace moeref {
namespace {

using testing::failing_case;
using testing::passing_case;
using testing::sample_report;
using testing::unjudged_case;

TEST(HtmlGroupsTest, ReasonsNameTheFirstTensorThatFailsOrTheFinding) {
  EXPECT_EQ(html_reason(failing_case()), "outputs/weights");
  EXPECT_EQ(html_reason(unjudged_case(Verdict::not_supported, "softmax only\nmore")), "softmax only");
  EXPECT_EQ(html_reason(passing_case()), "");
}

TEST(HtmlGroupsTest, FailuresComeFirstThenTheMostFrequentReason) {
  const CaseReport refused = unjudged_case(Verdict::not_supported, "softmax <only>");
  const std::string html = html_reasons(sample_report({refused, refused, failing_case(), passing_case()}));
  EXPECT_TRUE(holds(html, "<b>2</b> softmax &lt;only&gt;"));
  EXPECT_TRUE(holds(html, "<b>1</b> outputs/weights"));
  EXPECT_LT(html.find("outputs/weights"), html.find("softmax"));
  EXPECT_TRUE(holds(html, "&amp;component=gate\">"));
  EXPECT_EQ(html_reasons(sample_report({passing_case()})), "");
}

TEST(HtmlGroupsTest, TheMatrixCountsWhatPassedOfWhatWasJudged) {
  CaseReport single = passing_case("other");
  single.dtype = "float32";
  const std::string html = html_dtype_matrix(
      sample_report({passing_case(), failing_case(), single, unjudged_case(Verdict::not_supported, "no")}));
  EXPECT_TRUE(holds(html, "<a href=\"#q=bfloat16&amp;component=gate\">1 of 2</a>"));
  EXPECT_TRUE(holds(html, "<a href=\"#q=float32&amp;component=gate\">1 of 1</a>"));
  EXPECT_EQ(html_dtype_matrix(sample_report({passing_case()})), "");
}

}  // namespace
}  // namespace moeref
