// The report for CI systems.
#include "tools/report/junit.hpp"

#include <gtest/gtest.h>

#include "tools/report/tests/sample_report.hpp"
#include "tools/report/tests/xml_document.hpp"

namespace moeref {
namespace {

using testing::parse_xml;
using testing::XmlElement;

TEST(JunitTest, OneSuiteAComponentOneTestACase) {
  const XmlElement root = parse_xml(junit_text(
      testing::sample_report({testing::passing_case(), testing::passing_case("b"), testing::failing_case(),
                              testing::unjudged_case(Verdict::crashed, "signal 11"),
                              testing::unjudged_case(Verdict::not_supported, "no float64")})));
  EXPECT_EQ(root.name, "testsuites");
  EXPECT_EQ(root.attributes.at("tests"), "5");
  EXPECT_EQ(root.attributes.at("failures"), "1");
  EXPECT_EQ(root.attributes.at("errors"), "1");
  EXPECT_EQ(root.attributes.at("skipped"), "1");
  const auto suites = root.all("testsuite");
  ASSERT_EQ(suites.size(), 2u);
  EXPECT_EQ(suites[0]->attributes.at("name"), "gate");
  EXPECT_EQ(suites[0]->all("testcase").size(), 3u);
  EXPECT_EQ(suites[1]->all("error").at(0)->attributes.at("message"), "CRASHED: signal 11");
  EXPECT_EQ(suites[1]->all("skipped").at(0)->attributes.at("message"), "NOT_SUPPORTED: no float64");
}

TEST(JunitTest, EscapesWhateverNamesHold) {
  const XmlElement root = parse_xml(junit_text(testing::sample_report({testing::failing_case()})));
  EXPECT_EQ(root.all("testcase").at(0)->attributes.at("name"), "<&>\"'??");
  const XmlElement& failure = *root.all("failure").at(0);
  EXPECT_EQ(failure.attributes.at("type"), "FAIL");
  EXPECT_NE(failure.text.find("a < b & \"c\""), std::string::npos) << failure.text;
}

TEST(JunitTest, WarningsAndAmbiguityAreOutput) {
  CaseReport report = testing::passing_case();
  report.verdict = Verdict::ambiguous;
  report.ambiguous_tokens = 1;
  report.warnings = {"looks odd"};
  const XmlElement root = parse_xml(junit_text(testing::sample_report({report})));
  const std::string& text = root.all("system-out").at(0)->text;
  EXPECT_NE(text.find("AMBIGUOUS: 1 of 37 tokens"), std::string::npos) << text;
  EXPECT_NE(text.find("warning: looks odd"), std::string::npos) << text;
}

TEST(JunitTest, ARunThatProvesNothingFails) {
  const XmlElement root = parse_xml(junit_text(testing::sample_report({})));
  EXPECT_EQ(root.all("failure").at(0)->attributes.at("message"), "no case ran, which proves nothing");
}

}  // namespace
}  // namespace moeref
