// Lists of cases that must pass: what is on them, and what breaks them.
#include "tools/judging/must_pass.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "golden/catalogue/recipes.hpp"
#include "moeref/error.hpp"
#include "tools/report/tests/sample_report.hpp"
#include "tools/terminal/exit_code.hpp"

namespace moeref {
namespace {

namespace fs = std::filesystem;
using testing::failing_case;
using testing::passing_case;
using testing::sample_report;
using testing::unjudged_case;

const fs::path kGolden = MOEREF_GOLDEN;

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(MustPassTest, ListsAreThoseOfTheRules) {
  for (const std::string_view name : must_pass_names()) {
    const std::string want = must_pass_text(name, recipes());
    const fs::path made = fs::path(MOEREF_BUILD) / (std::string(name) + ".txt");
    std::ofstream(made) << want;
    EXPECT_TRUE(text_of(kGolden / "must_pass" / (std::string(name) + ".txt")) == want)
        << "recipes or rules have changed: copy " << made;
  }
}

TEST(MustPassTest, ListsNameExistingCases) {
  for (const std::string_view name : must_pass_names()) {
    const MustPassList list = read_must_pass(std::string(name));
    EXPECT_GE(list.cases.size(), 10u) << name;
    for (const MustPass& want : list.cases)
      EXPECT_TRUE(fs::exists(kGolden / "cases" / (want.case_name + ".h5"))) << name << ": " << want.case_name;
  }
}

TEST(MustPassTest, RulesChooseWhatTheySay) {
  const auto has = [](const char* list, std::string_view name) {
    return std::ranges::any_of(read_must_pass(list).cases,
                               [&](const MustPass& m) { return m.case_name == name; });
  };
  EXPECT_TRUE(has("core", "gate__sigmoid"));
  EXPECT_FALSE(has("core", "gate__vanished_sigmoid"));  // its scores do not decide the experts
  EXPECT_FALSE(has("core", "bias_update__sigmoid"));
  EXPECT_TRUE(has("training", "bias_update__sigmoid"));
  EXPECT_TRUE(has("training", "experts__bf16_geglu"));
  EXPECT_FALSE(has("training", "experts__bf16_ep2_all_to_all"));
  EXPECT_TRUE(has("expert_parallelism", "experts__bf16_ep2_all_to_all"));
}

MustPassList list_of(std::vector<MustPass> cases) { return {"mine", std::move(cases)}; }

TEST(MustPassTest, PassingCasesFulfilIt) {
  Report report = sample_report({passing_case()});
  apply_must_pass(list_of({{"gate__plain", false}}), report);
  EXPECT_EQ(report.run_finding(), "");
  EXPECT_EQ(report.exit_code(), kExitPassed);
}

TEST(MustPassTest, EverythingElseIsAFailure) {
  Report report = sample_report({passing_case(), unjudged_case(Verdict::not_supported, "no float64")});
  ASSERT_EQ(report.exit_code(), kExitPassed);
  apply_must_pass(list_of({{"moe__NOT_SUPPORTED", false}, {"mlp__absent", false}, {"gate__plain", true}}),
                  report);
  EXPECT_EQ(report.findings,
            (std::vector<std::string>{"must-pass mine: moe__NOT_SUPPORTED: NOT_SUPPORTED (no float64)",
                                      "must-pass mine: mlp__absent: not among the cases of this run",
                                      "must-pass mine: gate__plain: judged without its gradients"}));
  EXPECT_EQ(report.exit_code(), kExitFailed);
}

TEST(MustPassTest, WaivedAndAmbiguousIsNotPassed) {
  CaseReport waived = passing_case("a"), ambiguous = passing_case("b");
  waived.verdict = Verdict::waived;
  waived.waiver = "https://example.org/1";
  ambiguous.verdict = Verdict::ambiguous;
  Report report = sample_report({waived, ambiguous, passing_case("c")});
  apply_must_pass(list_of({{"gate__a", false}, {"gate__b", false}, {"gate__c", false}}), report);
  EXPECT_EQ(report.findings,
            (std::vector<std::string>{"must-pass mine: gate__a: WAIVED (https://example.org/1)",
                                      "must-pass mine: gate__b: AMBIGUOUS"}));
}

TEST(MustPassTest, GradientsOfThePortCountAndNotTheRecordedOnes) {
  CaseReport one = passing_case();
  one.tensors.push_back(testing::tensor(Subject::recorded, "grads/x", Verdict::pass, 0.1, 0, {3}));
  Report report = sample_report({one});
  apply_must_pass(list_of({{"gate__plain", true}}), report);
  EXPECT_EQ(report.findings.size(), 1u);
  report.findings.clear();
  report.cases[0].tensors.push_back(testing::tensor(Subject::port, "grads/x", Verdict::pass, 0.1, 0, {3}));
  apply_must_pass(list_of({{"gate__plain", true}}), report);
  EXPECT_TRUE(report.findings.empty());
}

TEST(MustPassTest, FilesAreReadAndBadLinesNamed) {
  const fs::path path =
      fs::temp_directory_path() / ("moeref_must_pass_" + std::to_string(::getpid()) + ".txt");
  const auto read = [&](const std::string& text) {
    std::ofstream(path) << text;
    return read_must_pass(path.string());
  };
  const auto error = [&](const std::string& text) -> std::string {
    try {
      read(text);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  const MustPassList list = read("# mine\ngate__a\n\n  mlp__b grads # with gradients\r\n");
  ASSERT_EQ(list.cases.size(), 2u);
  EXPECT_EQ(list.cases[0].case_name, "gate__a");
  EXPECT_FALSE(list.cases[0].gradients);
  EXPECT_TRUE(list.cases[1].gradients);
  EXPECT_EQ(error("# none\n"), path.string() + ": names no case");
  const std::string want = ": want a case's name like gate__sigmoid, and 'grads' or nothing behind it";
  EXPECT_EQ(error("gate__a\nsigmoid\n"), path.string() + ": line 2" + want);
  EXPECT_EQ(error("gate__a gradients\n"), path.string() + ": line 1" + want);
  EXPECT_THROW(read_must_pass("cores"), InputError);
  fs::remove(path);
}

}  // namespace
}  // namespace moeref
