// Waivers: what they cover, and what makes them fail the run.
#include "tools/judging/waivers.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "moeref/error.hpp"
#include "tools/report/tests/sample_report.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

using testing::failing_case;
using testing::passing_case;
using testing::sample_report;
using testing::tensor;
using testing::unjudged_case;

constexpr const char* kToday = "2026-11-23";

class WaiversTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::temp_directory_path() /
            ("moeref_" + std::string(test->name()) + std::to_string(::getpid()) + ".json");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  Waivers waivers(const std::string& text) {
    std::ofstream(path_) << text;
    return Waivers(path_);
  }
  /// One entry with a link, and these fields besides.
  Waivers waiver(const std::string& fields) {
    return waivers("{\"waivers\": [{\"issue\": \"https://example.org/1\", " + fields + "}]}");
  }
  std::string error_of(const std::string& text) {
    try {
      waivers(text);
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  }

  std::filesystem::path path_;
};

/// Fails in outputs/weights and grads/x.
CaseReport two_failures() {
  CaseReport report = failing_case();
  report.case_name = "sigmoid";
  return report;
}

TEST_F(WaiversTest, WaivedFailureDoesNotFailTheRun) {
  Report report = sample_report({passing_case(), two_failures()});
  ASSERT_EQ(report.exit_code(), kExitFailed);
  waiver(R"("case": "gate__sig*", "expires": "2026-11-23", "note": "known")").apply(report, kToday);
  EXPECT_EQ(report.cases[0].verdict, Verdict::pass);
  EXPECT_EQ(report.cases[1].verdict, Verdict::waived);
  EXPECT_EQ(report.cases[1].waiver, "https://example.org/1");
  EXPECT_EQ(report.run_finding(), "");
  EXPECT_EQ(report.exit_code(), kExitPassed);
}

TEST_F(WaiversTest, EveryFailingTensorMustBeCovered) {
  Report report = sample_report({passing_case(), two_failures()});
  waiver(R"("case": "gate__sigmoid", "tensor": "grads/*")").apply(report, kToday);
  EXPECT_EQ(report.cases[1].verdict, Verdict::fail);
  EXPECT_EQ(report.run_finding(), "");  // it covers a part, and is no waste

  Report both = sample_report({passing_case(), two_failures()});
  waivers(R"({"waivers": [{"case": "gate__sigmoid", "tensor": "grads/x", "issue": "https://a"},
                          {"case": "gate__sigmoid", "tensor": "outputs/weights", "issue": "https://b"}]})")
      .apply(both, kToday);
  EXPECT_EQ(both.cases[1].verdict, Verdict::waived);
}

TEST_F(WaiversTest, TensorsDoNotCoverAFindingAboutTheCase) {
  CaseReport one = two_failures();
  one.finding = "changes its input";
  Report report = sample_report({passing_case(), one});
  waiver(R"("case": "gate__sigmoid", "tensor": "*")").apply(report, kToday);
  EXPECT_EQ(report.cases[1].verdict, Verdict::fail);
  waiver(R"("case": "gate__sigmoid")").apply(report, kToday);
  EXPECT_EQ(report.cases[1].verdict, Verdict::waived);
}

TEST_F(WaiversTest, CrashesAreNotWaived) {
  Report report = sample_report({passing_case(), unjudged_case(Verdict::crashed, "signal 11")});
  waiver(R"("case": "*")").apply(report, kToday);
  EXPECT_EQ(report.cases[1].verdict, Verdict::crashed);
  EXPECT_EQ(report.exit_code(), kExitCrashed);
}

TEST_F(WaiversTest, ExpiredWaiverFailsTheRunAndWaivesNothing) {
  Report report = sample_report({passing_case(), two_failures()});
  waiver(R"("case": "gate__sigmoid", "expires": "2026-11-22")").apply(report, kToday);
  EXPECT_EQ(report.cases[1].verdict, Verdict::fail);
  EXPECT_EQ(report.run_finding(), path_.string() + ": entry 1 (gate__sigmoid): expired on 2026-11-22");
}

TEST_F(WaiversTest, WaiverWithoutALinkFailsTheRunAndWaivesNothing) {
  Report report = sample_report({passing_case(), two_failures()});
  waivers(R"({"waivers": [{"case": "gate__*"}, {"case": "gate__*", "issue": "#12"}]})").apply(report, kToday);
  EXPECT_EQ(report.cases[1].verdict, Verdict::fail);
  ASSERT_EQ(report.findings.size(), 2u);
  EXPECT_NE(report.findings[0].find("entry 1 (gate__*): has no issue"), std::string::npos);
  EXPECT_NE(report.findings[1].find("entry 2 (gate__*): its issue '#12' is no link"), std::string::npos);
}

TEST_F(WaiversTest, UnusedWaiverFailsTheRun) {
  Report report = sample_report({passing_case()});
  ASSERT_EQ(report.exit_code(), kExitPassed);
  waivers(
      R"({"waivers": [{"case": "gate__plain", "issue": "https://a"}, {"case": "mlp__*", "issue": "https://b"}]})")
      .apply(report, kToday);
  ASSERT_EQ(report.findings.size(), 2u);
  EXPECT_NE(report.findings[0].find("entry 1 (gate__plain): waives nothing"), std::string::npos);
  EXPECT_NE(report.findings[1].find("entry 2 (mlp__*): matches no case of this run"), std::string::npos);
  EXPECT_EQ(report.exit_code(), kExitFailed);
}

TEST_F(WaiversTest, BadFilesAreNamedWithTheirEntry) {
  const std::string at = path_.string() + ": ";
  EXPECT_TRUE(error_of("no").starts_with(at + "is no JSON"));
  EXPECT_EQ(error_of("[]"), at + "want {\"waivers\": [{\"case\": ..., \"issue\": ...}, ...]}");
  EXPECT_EQ(error_of(R"({"waivers": [{"case": "a"}, 3]})"), at + "entry 2: is 3: want an object");
  EXPECT_EQ(error_of(R"({"waivers": [{"tensor": "a"}]})"),
            at + "entry 1: lacks the field 'case': want a case's name or a pattern");
  EXPECT_EQ(error_of(R"({"waivers": [{"case": 3}]})"), at + "entry 1: field 'case' is 3: want a text");
  EXPECT_EQ(error_of(R"({"waivers": [{"case": "a", "expiry": "x"}]})"),
            at + "entry 1: unknown field 'expiry': want case, tensor, issue, expires or note");
  for (const char* date : {"2026-13-01", "2026-02-30", "tomorrow", "2026-1-1", "2026-11-2x"})
    EXPECT_EQ(error_of(std::string(R"({"waivers": [{"case": "a", "expires": ")") + date + "\"}]}"),
              at + "entry 1: field 'expires' is \"" + date + "\": want a date like 2027-01-31");
  EXPECT_THROW(Waivers("/nowhere/waivers.json"), InputError);
}

TEST_F(WaiversTest, TodayIsADate) {
  const std::string today = today_utc();
  ASSERT_EQ(today.size(), 10u);
  EXPECT_GE(today, "2024-01-01");
}

}  // namespace
}  // namespace moeref
