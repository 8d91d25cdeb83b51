// The matrix of mutants in its formats, and when a run of them fails.
#include "tools/report/mutant_report.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/tests/holds.hpp"

namespace moeref {
namespace {

NamedTensors any_answer(Implementation&, const Call&) { return {}; }

const Mutant kCaught{.name = "caught",
                     .bug = "O7",
                     .components = {Component::gate},
                     .does = "a <b> & \"c\"",
                     .first_wrong = "outputs/weights",
                     .run = any_answer};
const Mutant kMissed{.name = "missed", .components = {Component::gate}, .does = "nothing", .run = any_answer};
const Mutant kProven{.name = "proven",
                     .components = {Component::gate},
                     .does = "nothing",
                     .run = any_answer,
                     .equivalent = "it is the same"};
const Mutant kOutside{.name = "outside",
                      .components = {Component::gate},
                      .does = "another thing",
                      .cannot = "there is no call for it"};

Trial caught() {
  Trial trial{.mutant = &kCaught};
  trial.judged = 5;
  trial.failing = 4;
  trial.rightly_named = 3;
  trial.first_named = {{"outputs/weights", 3}, {"grads/x", 1}};
  trial.kills = {{find_property("weight_sums"), "gate T=1 seed=1", "too large", true, 1}};
  return trial;
}

MutantReport report_of(std::vector<Trial> trials) {
  MutantReport report;
  report.moeref = "1.2.3";
  report.trials = std::move(trials);
  return report;
}

TEST(MutantReportTest, CountsAndPasses) {
  const MutantReport report = report_of({caught(), {.mutant = &kProven}, {.mutant = &kOutside}});
  const MutantScore score = report.score();
  EXPECT_EQ(score.rows, 3);
  EXPECT_EQ(score.run, 2);
  EXPECT_EQ(score.killed, 1);
  EXPECT_EQ(score.equivalent, 1);
  EXPECT_DOUBLE_EQ(score.right_share(), 0.75);
  EXPECT_EQ(report.exit_code(), 0);
  EXPECT_EQ(mutants_markdown(report), "| every dtype | 2 | 1 | 1 | 1 | 1 | 75 % |\n");
  const std::string text = mutants_text(report, false);
  EXPECT_TRUE(text.ends_with("killed 1 of 2, 1 proven equivalent\n")) << text;
  EXPECT_TRUE(holds(text, "outputs/weights 75 %")) << text;
  EXPECT_TRUE(holds(text, "there is no call for it")) << text;
}

TEST(MutantReportTest, ASurvivorFails) {
  const MutantReport report = report_of({caught(), {.mutant = &kMissed}});
  EXPECT_EQ(report.exit_code(), 1);
  EXPECT_TRUE(holds(mutants_text(report, false), "FAIL missed survives"));
  EXPECT_EQ(nlohmann::json::parse(mutants_json(report)).at("mutants").at(1).at("status"), "SURVIVED");
}

TEST(MutantReportTest, OfPortsOfOneDtypeAFewMaySurvive) {
  MutantReport report = report_of(std::vector<Trial>(19, caught()));
  report.trials.push_back({.mutant = &kMissed});
  EXPECT_EQ(report.exit_code(), 1);
  report.dtype = "bfloat16";
  EXPECT_EQ(report.exit_code(), 0);
  report.trials.push_back({.mutant = &kMissed});
  EXPECT_EQ(report.exit_code(), 1);
}

TEST(MutantReportTest, AWrongProofFails) {
  Trial trial{.mutant = &kProven};
  trial.judged = trial.failing = trial.rightly_named = 1;
  trial.first_named = {{"outputs/weights", 1}};
  EXPECT_EQ(report_of({trial}).exit_code(), 1);
}

TEST(MutantReportTest, APropertyThatPassesWhereItsRowNamesItFails) {
  Trial trial = caught();
  trial.missed = {"group_selection"};
  EXPECT_EQ(report_of({trial}).exit_code(), 1);
}

TEST(MutantReportTest, FilesThatNameABugMustCatchItsMutant) {
  Trial trial = caught();
  trial.flagged = 2;
  EXPECT_EQ(report_of({trial}).exit_code(), 1);
  trial.flagged_failing = 1;
  EXPECT_EQ(report_of({trial}).exit_code(), 0);
}

TEST(MutantReportTest, AWholeRunNamesWhatKillsNothing) {
  MutantReport report = report_of({caught()});
  report.whole = true;
  report.flags = {"A1", "O7"};
  EXPECT_EQ(report.flags_without_mutant(), std::vector<std::string>{"A1"});
  EXPECT_EQ(report.idle_properties().size() + 2, properties().size());  // and the one that needs rounding
  EXPECT_EQ(report.exit_code(), 1);
}

TEST(MutantReportTest, ThePageEscapesText) {
  const std::string page = mutants_html(report_of({caught()}));
  EXPECT_TRUE(holds(page, "a &lt;b&gt; &amp; &quot;c&quot;"));
  EXPECT_TRUE(holds(page, "data-verdict=\"KILLED\""));
  EXPECT_TRUE(holds(page, "<span class=\"outcome passed\">PASSED</span>"));
}

}  // namespace
}  // namespace moeref
