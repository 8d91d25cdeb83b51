// moeref bench of a library: what its bench() says, and what it does instead of saying it.
#include <nlohmann/json.hpp>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

class BenchLibraryTest : public CommandTest {
 protected:
  /// gate, experts and the whole layer of one shape.
  Finished bench(const std::string& mode, std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"bench", "--port", MOEREF_TIMED_PORT, "--shape", "dsv3", "--json",
                               at("bench.json").string()});
    return run_moeref(more, {"TIMED_PORT=" + mode});
  }
  json report() const { return json::parse(text_of(at("bench.json"))); }
};

TEST_F(BenchLibraryTest, ReportsWhatThePortMeasured) {
  const Finished finished = bench("");
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  const json report = this->report();
  EXPECT_EQ(report["port"], MOEREF_TIMED_PORT);
  EXPECT_EQ(report["environment"], (json{{"device", "Abacus 9"}, {"beads", "90"}}));
  EXPECT_EQ(report["repeat"], 10);
  ASSERT_EQ(report["results"].size(), 6u);
  const json &forward = report["results"][2], &both = report["results"][3];
  EXPECT_EQ(forward["component"], "experts");
  EXPECT_EQ(forward["shape"], "dsv3");
  EXPECT_EQ(forward["median_ms"], 8192.0);
  EXPECT_EQ(forward["kernels"], "by hand");
  EXPECT_EQ(forward["config"]["dim"], 7168);
  // Flops are moeref's own: 6 T k D I, and twice that once more for the backward pass.
  EXPECT_EQ(forward["flops"], 6.0 * 8192 * 8 * 7168 * 2048);
  EXPECT_EQ(both["flops"], 18.0 * 8192 * 8 * 7168 * 2048);
  EXPECT_EQ(both["pass"], "forward+backward");
  EXPECT_NEAR(both["dense_share"].get<double>(), 1.0 / 3.0, 1e-12);
  EXPECT_TRUE(both["gflops_per_core"].is_null());
}

TEST_F(BenchLibraryTest, TheCommandLineGoesToThePort) {
  EXPECT_EQ(bench("", {"--tokens", "5", "--repeat", "2", "--component", "moe"}).exit_code, 0);
  EXPECT_EQ(report()["repeat"], 2);
  EXPECT_EQ(report()["results"][1]["median_ms"], 15.0);
}

/// One component cannot be measured, and the others are.
TEST_F(BenchLibraryTest, WhatThePortDoesInsteadIsALineAndTheRunGoesOn) {
  const struct {
    const char* mode;
    int exit_code;
    const char* reason;
  } ways[] = {{"crash", 3, "killed by SIGABRT"},
              {"hang", 3, "no answer within 2 s"},
              {"lost", 3, "the beads are gone"},
              {"odd status", 3, "bench() returned 77"},
              {"error", 1, "too few beads"},
              {"odd time", 1, "'median_ms' is null: want milliseconds"},
              {"no json", 1, "its answer is no JSON object"}};
  for (const auto& way : ways) {
    const Finished finished = bench(way.mode, {"--timeout", std::string(way.mode) == "hang" ? "2" : "60"});
    EXPECT_EQ(finished.exit_code, way.exit_code) << way.mode << finished.err;
    const json report = this->report();
    ASSERT_EQ(report["not_measured"].size(), 1u) << way.mode;
    EXPECT_EQ(report["not_measured"][0]["component"], "experts");
    EXPECT_TRUE(holds(report["not_measured"][0]["reason"], way.reason)) << report["not_measured"];
    EXPECT_EQ(report["results"].size(), 4u) << way.mode;
  }
}

TEST_F(BenchLibraryTest, APortThatCanMeasureNothingIsOneLine) {
  EXPECT_TRUE(holds(bad_input_line(bench("no device")),
                    "--port " + std::string(MOEREF_TIMED_PORT) + ": no device here"));
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"bench", "--port", MOEREF_EXAMPLE_PORT})),
                    ": NOT_SUPPORTED: the port has no bench()"));
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"bench", "--port", "./none.so"})), "./none.so: is no file"));
  EXPECT_TRUE(names().empty());
}

}  // namespace
}  // namespace moeref::testing
