// The report for programs.
#include "tools/report/json.hpp"

#include <gtest/gtest.h>

#include "tools/report/tests/sample_report.hpp"

namespace moeref {
namespace {

using nlohmann::json;

TEST(JsonReportTest, HasWhatTheReportHas) {
  const json report =
      json::parse(json_text(testing::sample_report({testing::passing_case(), testing::failing_case()})));
  EXPECT_EQ(report["format"], "moeref-report");
  EXPECT_EQ(report["format_version"], 1);
  EXPECT_EQ(report["moeref"], "1.2.3");
  EXPECT_EQ(report["port"], "results:out");
  EXPECT_EQ(report["exit_code"], 1);
  EXPECT_EQ(report["total"]["verdicts"], (json{{"PASS", 1}, {"FAIL", 1}}));
  EXPECT_EQ(report["total"]["tokens"], 74);
  EXPECT_EQ(report["components"]["gate"]["cases"], 2);
  EXPECT_EQ(report["components"]["gate"]["worst_tensor"], "grads/x");
  ASSERT_EQ(report["cases"].size(), 2u);

  const json& tensor = report["cases"][1]["tensors"][0];
  EXPECT_EQ(tensor["subject"], "port");
  EXPECT_EQ(tensor["tensor"], "outputs/weights");
  EXPECT_EQ(tensor["verdict"], "FAIL");
  EXPECT_EQ(tensor["index"], 13);
  EXPECT_EQ(tensor["place"], "outputs/weights[6, 1]");
  EXPECT_EQ(tensor["shape"], (json{37, 2}));
  EXPECT_EQ(tensor["value"], 0.25);
  EXPECT_EQ(tensor["reference"], 0.5);
  EXPECT_EQ(tensor["bound"], 1e-3);
  EXPECT_EQ(tensor["ratio"], 42.5);
  EXPECT_EQ(tensor["finding"], "outside the bound");
}

TEST(JsonReportTest, NumbersThatJsonLacksAreTexts) {
  const json report = json::parse(json_text(testing::sample_report({testing::failing_case()})));
  const json& tensor = report["cases"][0]["tensors"][1];
  EXPECT_EQ(tensor["ratio"], "inf");
  EXPECT_EQ(tensor["value"], "nan");
}

TEST(JsonReportTest, NothingJudgedIsNull) {
  const json report = json::parse(
      json_text(testing::sample_report({testing::unjudged_case(Verdict::not_supported, "no float64")})));
  EXPECT_TRUE(report["total"]["worst_ratio"].is_null());
  EXPECT_EQ(report["cases"][0]["finding"], "no float64");
  EXPECT_EQ(report["cases"][0]["tensors"].size(), 0u);
}

}  // namespace
}  // namespace moeref
