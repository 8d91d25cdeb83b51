// moeref check: what it says of ports that are right and wrong, the smallest case, and the line that repeats
// it.
#include <nlohmann/json.hpp>
#include <regex>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class CheckTest : public CommandTest {
 protected:
  /// `moeref check`, and its JSON report in `report`.
  Finished check(const std::string& port, std::vector<std::string> more) {
    std::vector<std::string> arguments{"check", "--port", port, "--json", at("report.json").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = run_moeref(arguments);
    if (fs::exists(at("report.json"))) report = json::parse(text_of(at("report.json")));
    return finished;
  }
  static std::string broken(const std::string& port) {
    return std::string(MOEREF_BROKEN_PORTS) + "/libbroken_" + port + ".so";
  }
  /// The entry of a property; the test fails where there is none.
  json entry(const std::string& property) const {
    for (const json& one : report["properties"])
      if (one["property"] == property) return one;
    ADD_FAILURE() << "no property " << property << " in " << report.dump(2);
    return {};
  }

  json report;
};

TEST_F(CheckTest, ReferencePasses) {
  const Finished finished = check("cpu", {"--component", "mlp", "--cases", "20", "--seed", "5"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_EQ(finished.err, "");
  EXPECT_TRUE(holds(finished.out, "seed 5")) << finished.out;
  EXPECT_EQ(report["exit_code"], 0);
  EXPECT_GT(report["properties"].size(), 2U);
}

TEST_F(CheckTest, TheSameSeedDrawsTheSameCases) {
  const std::vector<std::string> how{"--component", "gate",    "--property", "unbiased_weights",
                                     "weight_sums", "--cases", "10",         "--seed",
                                     "11"};
  check(broken("biased_weights"), how);
  json first = report;
  check(broken("biased_weights"), how);
  ASSERT_EQ(first["properties"].size(), report["properties"].size());
  for (std::size_t i = 0; i < first["properties"].size(); ++i)
    for (json* one : {&first["properties"][i], &report["properties"][i]}) one->erase("seconds");
  EXPECT_EQ(first["properties"], report["properties"]);
}

TEST_F(CheckTest, WrongPortIsShrunkSavedAndRepeated) {
  const Finished finished =
      check(broken("biased_weights"), {"--component", "gate", "--property", "unbiased_weights", "--cases",
                                       "100", "--seed", "3", "--save-failures", at("failures").string()});
  EXPECT_EQ(finished.exit_code, 1) << finished.out << finished.err;
  const json wrong = entry("unbiased_weights");
  EXPECT_EQ(wrong["status"], "FAIL");
  EXPECT_EQ(wrong["tensor"], "outputs/weights");

  // The smallest case has nothing that the bug does not need: one token shows it.
  const std::string descriptor = wrong["descriptor"];
  EXPECT_FALSE(std::regex_search(descriptor, std::regex(R"(\bT=([2-9]|\d\d))"))) << descriptor;

  const Finished again = run_moeref({"check", "--port", broken("biased_weights"), "--property",
                                     "unbiased_weights", "--repeat", descriptor});
  EXPECT_EQ(again.exit_code, 1) << again.out << again.err;
  EXPECT_TRUE(holds(again.out, "FAIL outputs/weights")) << again.out;
  EXPECT_TRUE(holds(wrong["repeat"], descriptor)) << wrong["repeat"];
  EXPECT_EQ(run_moeref({"check", "--port", "cpu", "--property", "unbiased_weights", "--repeat", descriptor})
                .exit_code,
            0);

  const std::string saved = wrong["saved"];
  EXPECT_EQ(run_moeref({"validate", "--port", "cpu", saved}).exit_code, 0);
  EXPECT_EQ(run_moeref({"validate", "--port", broken("biased_weights"), saved}).exit_code, 1);
}

TEST_F(CheckTest, CrashIsAFindingAndTheRunGoesOn) {
  const Finished finished =
      check(broken("crash"), {"--component", "gate", "mlp", "--property", "weight_sums", "token_permutation",
                              "rerun", "--cases", "10", "--seed", "1"});
  EXPECT_EQ(finished.exit_code, 3) << finished.out;
  EXPECT_TRUE(holds(finished.out, "CRASHED")) << finished.out;
  std::size_t passed = 0;
  for (const json& one : report["properties"]) passed += one["status"] == "PASS";
  EXPECT_GT(passed, 0U) << finished.out;
}

TEST_F(CheckTest, HangEndsWithItsTimeLimit) {
  const Finished finished = check(broken("hang"), {"--component", "mlp", "--cases", "4", "--seed", "1",
                                                   "--property", "activation_values", "--timeout", "0.5"});
  EXPECT_EQ(finished.exit_code, 3) << finished.out;
  EXPECT_EQ(entry("activation_values")["status"], "HUNG") << finished.out;
}

TEST_F(CheckTest, NothingThatRanIsNoPass) {
  const Finished finished = check(std::string(MOEREF_EXAMPLE_PORT), {"--component", "init", "--cases", "5"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  for (const json& one : report["properties"]) EXPECT_EQ(one["status"], "NOT_SUPPORTED") << one;
  EXPECT_FALSE(holds(finished.out, "a minute")) << finished.out;
}

TEST_F(CheckTest, ForwardOnlySaysThatGradientsWereNotAskedFor) {
  const std::vector<std::string> how{"--component", "mlp", "--cases", "10", "--seed", "2"};
  std::vector<std::string> forward = how;
  forward.emplace_back("--forward-only");
  const Finished finished = check("cpu", forward);
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_TRUE(finished.out.ends_with("\ngradients were not asked for\n")) << finished.out;
  EXPECT_EQ(entry("central_differences")["status"], "NOT_SUPPORTED");
  EXPECT_EQ(entry("within_bounds")["status"], "PASS");
  EXPECT_EQ(entry("row_order")["status"], "PASS");
  EXPECT_FALSE(holds(check("cpu", how).out, "gradients were not asked for")) << finished.out;
}

TEST_F(CheckTest, EveryRunSaysItsSeed) {
  const std::vector<std::string> how{"--property", "unbiased_weights", "--cases", "1"};
  EXPECT_TRUE(std::regex_search(check("cpu", how).out, std::regex(R"(port cpu[^\n]*, seed \d+, 1 case)")));
  const json first = report["seed"];
  check("cpu", how);
  EXPECT_NE(first, report["seed"]);
}

TEST_F(CheckTest, RealSizesAreAnotherScale) {
  const Finished finished = check("cpu", {"--scale", "kernel", "--component", "metrics", "--seed", "2"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_TRUE(holds(finished.out, "scale kernel, 2 cases per component")) << finished.out;
  EXPECT_EQ(report["scale"], "kernel");
  EXPECT_EQ(entry("every_router_size")["passed"], 2);
}

TEST_F(CheckTest, AFailureNamesWhereItBegins) {
  check(broken("biased_weights"), {"--component", "gate", "--property", "every_size", "--seed", "3"});
  const json wrong = entry("every_size");
  EXPECT_EQ(wrong["status"], "FAIL");
  EXPECT_EQ(wrong["thresholds"], json::array());  // it is wrong at every size
}

TEST_F(CheckTest, BadUsageIsOneLine) {
  const auto line = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"check", "--port"});
    return bad_input_line(run_moeref(more));
  };
  EXPECT_TRUE(holds(line({"cpu", "--property", "nonsense"}), "there is no property 'nonsense'"));
  EXPECT_TRUE(holds(line({"cpu", "--component", "router"}), "router"));
  EXPECT_TRUE(holds(line({"cpu", "--seed", "-1"}), "--seed is '-1'"));
  EXPECT_TRUE(holds(line({"cpu", "--timeout", "0"}), "--timeout is 0"));
  EXPECT_TRUE(holds(line({"cpu", "--scale", "huge"}), "the scale is 'huge': want small, kernel or full"));
  EXPECT_TRUE(holds(line({"cpu", "--scale", "full", "--property", "unbiased_weights"}), "of the scale full"));
  EXPECT_TRUE(holds(line({"cpu", "--repeat", "gate T=1"}), "--repeat needs the one --property"));
  EXPECT_TRUE(holds(line({"cpu", "--property", "unbiased_weights", "--repeat", "gate what=1"}), "what"));
  EXPECT_TRUE(holds(line({"results:somewhere"}), "which files cannot answer"));
  EXPECT_TRUE(holds(line({at("nothing.so").string()}), "nothing.so"));
}

}  // namespace
}  // namespace moeref::testing
