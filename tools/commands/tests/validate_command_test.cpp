// moeref validate on files that are in order: verdicts, exit codes and reports.
#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/commands/tests/damaged_golden.hpp"
#include "tools/report/tests/xml_document.hpp"
#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ValidateTest : public CommandTest {
 protected:
  /// Golden files, and copies of them that play the results of a port.
  void SetUp() override {
    CommandTest::SetUp();
    for (const char* name : {"gate__sigmoid", "mlp__swiglu"}) {
      copy_case(name, at("golden"));
      copy_case(name, at("results"));
    }
  }

  Finished validate(const std::string& port, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"validate", "--port", port, at("golden").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_moeref(arguments);
  }
  std::string results_port() const { return "results:" + at("results").string(); }
  fs::path result(const std::string& name) const { return at("results") / (name + ".h5"); }
};

TEST_F(ValidateTest, ReferenceAgreesWithWhatIsRecorded) {
  const Finished finished = validate("cpu");
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_EQ(finished.err, "");
  EXPECT_TRUE(holds(finished.out, "the results recorded in the files, judged against the reference"))
      << finished.out;
  EXPECT_TRUE(holds(finished.out, "PASSED 2 of 2 cases passed (2 PASS)")) << finished.out;
}

TEST_F(ValidateTest, PortThatIsRightPasses) {
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_EQ(finished.err, "");
}

TEST_F(ValidateTest, OneWrongValueIsFoundAndNamed) {
  set_value(result("gate__sigmoid"), "outputs/weights", 24, 0.125);
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_EQ(finished.err, "");
  EXPECT_TRUE(holds(finished.out, "FAIL " + (at("golden") / "gate__sigmoid.h5").string())) << finished.out;
  EXPECT_TRUE(holds(finished.out, "port outputs/weights[12, 0] = 0.125, reference ")) << finished.out;
  const std::string repeat = "repeat: moeref validate --port " + results_port() + " ";
  EXPECT_TRUE(holds(finished.out, repeat + (at("golden") / "gate__sigmoid.h5").string())) << finished.out;
  EXPECT_TRUE(holds(finished.out, "FAILED 1 of 2 cases passed (1 PASS, 1 FAIL)")) << finished.out;
}

TEST_F(ValidateTest, TheFirstStageThatIsWrongComesFirst) {
  set_value(result("gate__sigmoid"), "grads/x", 5, 100.0);
  set_value(result("gate__sigmoid"), "outputs/weights", 24, 0.125);
  const Finished finished = validate(results_port(), {"--quiet"});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_LT(finished.out.find("outputs/weights[12, 0]"), finished.out.find("grads/x[0, 5]")) << finished.out;
}

TEST_F(ValidateTest, WrongExpertsAreFound) {
  const double id = value_at(result("gate__sigmoid"), "outputs/indices", 0);
  set_value(result("gate__sigmoid"), "outputs/indices", 0, id == 7.0 ? 6.0 : id + 1.0);
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "outputs/indices")) << finished.out;
}

TEST_F(ValidateTest, WrongGoldenFileIsToldApartFromAWrongPort) {
  set_value(at("golden") / "mlp__swiglu.h5", "outputs/y", 30, 1e4);
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "recorded outputs/y[1, 6] = 10000")) << finished.out;
  EXPECT_FALSE(holds(finished.out, "port outputs/y")) << finished.out;
}

TEST_F(ValidateTest, NaNMissingAndMisshapenResultsAreFailures) {
  set_value(result("gate__sigmoid"), "outputs/weights", 3, NAN);
  EXPECT_EQ(validate(results_port()).exit_code, 1);
  replace_dataset(result("gate__sigmoid"), "outputs/weights", DType::float32, {37, 3});
  EXPECT_TRUE(holds(validate(results_port()).out, "[37, 3]"));
  remove_dataset(result("gate__sigmoid"), "outputs/weights");
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "outputs/weights: missing")) << finished.out;
}

TEST_F(ValidateTest, CaseWithoutResultsIsAFailure) {
  fs::remove(result("mlp__swiglu"));
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "the port gave no results: there is no " + result("mlp__swiglu").string()))
      << finished.out;
}

TEST_F(ValidateTest, UnreadableResultsAreBadInput) {
  truncate(result("mlp__swiglu"), 100);
  const std::string line = bad_input_line(validate(results_port(), {"--json", at("report.json").string()}));
  EXPECT_TRUE(line.starts_with(result("mlp__swiglu").string())) << line;
  EXPECT_FALSE(fs::exists(at("report.json")));
  fs::remove_all(at("results"));
  bad_input_line(validate(results_port()));
  fs::create_directories(at("results"));
  EXPECT_TRUE(holds(bad_input_line(validate(results_port())), "holds no results file"));
}

TEST_F(ValidateTest, GoldenFilesAreNoResults) {
  bad_input_line(validate("results:" + at("golden").string()));
}

TEST_F(ValidateTest, ReportsParse) {
  set_value(result("gate__sigmoid"), "outputs/weights", 24, 0.125);
  validate(results_port(),
           {"--json", at("report.json").string(), "--junit", at("report.xml").string(), "--quiet"});
  const json report = json::parse(text_of(at("report.json")));
  EXPECT_EQ(report["exit_code"], 1);
  EXPECT_EQ(report["total"]["verdicts"], (json{{"PASS", 1}, {"FAIL", 1}}));
  const json& failed = report["cases"][0];
  EXPECT_EQ(failed["case"], "sigmoid");
  EXPECT_EQ(failed["verdict"], "FAIL");
  const auto tensor =
      std::ranges::find_if(failed["tensors"], [](const json& t) { return t["verdict"] == "FAIL"; });
  EXPECT_EQ((*tensor)["place"], "outputs/weights[12, 0]");
  EXPECT_EQ((*tensor)["value"], 0.125);

  const XmlElement root = parse_xml(text_of(at("report.xml")));
  EXPECT_EQ(root.attributes.at("failures"), "1");
  EXPECT_EQ(root.all("testcase").size(), 2u);
  EXPECT_TRUE(holds(root.all("failure").at(0)->attributes.at("message"), "outputs/weights[12, 0]"));
}

TEST_F(ValidateTest, ComponentsAreChosen) {
  const Finished finished = validate("cpu", {"--component", "mlp"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_TRUE(holds(finished.out, "PASSED 1 of 1 cases passed (1 PASS)")) << finished.out;
  EXPECT_TRUE(
      holds(validate("cpu", {"--component", "mlp", "--component", "gate"}).out, "PASSED 2 of 2 cases"));
  EXPECT_TRUE(holds(validate("cpu", {"--component", "mlp,gate"}).out, "PASSED 2 of 2 cases"));
  EXPECT_EQ(
      bad_input_line(validate("cpu", {"--component", "mlp", "gate"})),
      "gate: no such file or folder; as a component it is --component gate, and several are --component "
      "gate,moe");
  EXPECT_EQ(bad_input_line(validate("cpu", {"--component", "moe"})),
            "none of the 2 files is a case of the components asked for");
  EXPECT_TRUE(
      bad_input_line(validate("cpu", {"--component", "gates"})).starts_with("unknown component 'gates'"));
}

TEST_F(ValidateTest, ForwardOnlyLeavesGradientsOut) {
  set_value(result("gate__sigmoid"), "grads/x", 5, 100.0);
  EXPECT_EQ(validate(results_port()).exit_code, 1);
  const Finished finished = validate(results_port(), {"--forward-only"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_TRUE(holds(finished.out, "2 of the cases have gradients and were judged forward only"))
      << finished.out;

  set_value(result("gate__sigmoid"), "outputs/weights", 24, 0.125);
  const Finished wrong = validate(results_port(), {"--forward-only"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_TRUE(holds(wrong.out, "repeat: moeref validate --port " + results_port() + " --forward-only "))
      << wrong.out;
}

TEST_F(ValidateTest, ReasonsForWhatIsNotSupportedAreShown) {
  fs::remove(result("mlp__swiglu"));
  std::ofstream(at("results") / "mlp__swiglu.not_supported") << "no biases\n";
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_TRUE(holds(finished.out, "1 x not supported: no biases\n")) << finished.out;
  EXPECT_TRUE(holds(finished.out, "PASSED 1 of 2 cases passed (1 PASS, 1 NOT_SUPPORTED)")) << finished.out;
}

TEST_F(ValidateTest, ACallAloneIsJudgedOfPorts) {
  for (const char* dataset : {"outputs", "grads"}) remove_dataset(at("golden") / "gate__sigmoid.h5", dataset);
  const Finished right = validate(results_port());
  EXPECT_EQ(right.exit_code, 0) << right.out << right.err;
  EXPECT_TRUE(holds(right.out, "PASSED 2 of 2 cases passed (2 PASS)")) << right.out;
  EXPECT_TRUE(holds(validate("cpu").out, "1 x not supported: the file holds a call alone, without results"));

  set_value(result("gate__sigmoid"), "grads/x", 5, 100.0);
  const Finished wrong = validate(results_port());
  EXPECT_EQ(wrong.exit_code, 1) << wrong.out;
  EXPECT_TRUE(holds(wrong.out, "  port grads/x[")) << wrong.out;
}

TEST_F(ValidateTest, WhatTheFileRecordsWrongIsSaidOfTheFile) {
  set_value(at("golden") / "gate__sigmoid.h5", "outputs/weights", 24, 0.125);
  const Finished finished = validate(results_port());
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  EXPECT_TRUE(holds(finished.out, "  recorded outputs/weights[12, 0] = 0.125")) << finished.out;
  EXPECT_FALSE(holds(finished.out, "  port ")) << finished.out;
}

TEST_F(ValidateTest, NoColoursWithoutATerminal) {
  EXPECT_FALSE(
      holds(run_moeref({"validate", "--port", "cpu", at("golden").string()}, {"TERM=xterm"}).out, "\033"));
}

}  // namespace
}  // namespace moeref::testing
