#include "tools/report/comparison.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "moeref/error.hpp"
#include "tools/report/json.hpp"
#include "tools/report/tests/sample_report.hpp"
#include "tools/tests/holds.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using testing::passing_case;
using testing::sample_report;
using testing::tensor;
using testing::unjudged_case;

class ComparisonTest : public ::testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& text) {
    const fs::path path = fs::path(::testing::TempDir()) / ("comparison_" + name);
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  static CaseReport failing(const std::string& name) {
    CaseReport report = passing_case(name);
    report.verdict = Verdict::fail;
    report.tensors = {tensor(Subject::port, "outputs/weights", Verdict::fail, 42.5, 13, {37, 2})};
    return report;
  }
  static CaseReport refused(const std::string& name) {
    CaseReport report = unjudged_case(Verdict::not_supported, "softmax only");
    report.component = Component::gate;
    report.case_name = name;
    return report;
  }
};

TEST_F(ComparisonTest, SortsCasesIntoWorseAndBetter) {
  const fs::path before =
      write("before.json", json_text(sample_report({passing_case("a"), failing("b"), passing_case("c"),
                                                    passing_case("same"), refused("d")})));
  const fs::path after =
      write("after.json", json_text(sample_report({failing("a"), passing_case("b"), refused("c"),
                                                   passing_case("same"), passing_case("e"), refused("d")})));
  const ReportComparison found = compare_reports(before, after);
  ASSERT_EQ(found.worse.size(), 2u);
  EXPECT_EQ(found.worse[0].name, "gate__a");
  EXPECT_TRUE(holds(found.worse[0].finding, "outputs/weights"));
  EXPECT_EQ(found.worse[1].name, "gate__c");
  ASSERT_EQ(found.better.size(), 1u);
  EXPECT_EQ(found.better[0].name, "gate__b");
  ASSERT_EQ(found.other.size(), 1u);
  EXPECT_EQ(found.other[0].before, "");
  EXPECT_EQ(found.same, 2u);
  EXPECT_TRUE(holds(comparison_text(found, false), "2 worse, 1 better, 1 other, 2 the same"));
  EXPECT_TRUE(holds(comparison_html(found), "<th scope=\"row\">gate__a</th><td>PASS</td><td>FAIL</td>"));
}

TEST_F(ComparisonTest, WhatIsNoReportIsBadInput) {
  const fs::path report = write("report.json", json_text(sample_report({passing_case()})));
  for (const char* text : {"", "[]", "{\"format\": 3}", "{\"format\": \"moeref-report\"}"})
    EXPECT_THROW(compare_reports(report, write("broken.json", text)), InputError) << text;
  EXPECT_THROW(compare_reports(report, "nowhere.json"), InputError);
}

}  // namespace
}  // namespace moeref
