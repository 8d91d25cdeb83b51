// One rank of several that does something wrong: the finding names the rank, the call ends for all, and the
// next one, with fresh processes, is all right.
#include <chrono>
#include <nlohmann/json.hpp>

#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

struct RankOddity {
  const char* way;
  int exit_code;
  const char* verdict;
  const char* finding;    ///< of moe__ep2_all_gather; its beginning
  const char* also = "";  ///< what else it says
};

void PrintTo(const RankOddity& oddity, std::ostream* out) { *out << oddity.way; }

class OddRanks : public CommandTest {
 protected:
  json validate(const char* way, const std::vector<std::string>& cases,
                const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments{"validate", "--port",
                                       std::string(MOEREF_BROKEN_PORTS) + "/libbroken_odd_ranks.so", "--json",
                                       at("report.json").string()};
    for (const std::string& name : cases) arguments.push_back(std::string(MOEREF_CASES) + "/" + name + ".h5");
    arguments.insert(arguments.end(), more.begin(), more.end());
    finished = run_moeref(arguments, {std::string("MOEREF_TEST_ODDITY=") + way});
    EXPECT_EQ(finished.err, "");
    return json::parse(text_of(at("report.json")))["cases"];
  }

  Finished finished;
};

class OddRanksTest : public OddRanks, public ::testing::WithParamInterface<RankOddity> {};

TEST_P(OddRanksTest, IsFoundAndTheRunGoesOn) {
  const auto began = std::chrono::steady_clock::now();
  // In this order; the last one has as many ranks as the odd one.
  const json cases =
      validate(GetParam().way, {"experts__ep2_all_gather", "moe__ep2_all_gather", "moe__ep2_all_to_all"},
               {"--timeout", std::string(GetParam().way) == "never_comes" ? "4" : "60"});
  ASSERT_EQ(cases.size(), 3U);
  EXPECT_EQ(finished.exit_code, GetParam().exit_code) << finished.out;
  const json& odd = cases[1];
  EXPECT_EQ(odd["case"], "ep2_all_gather");
  EXPECT_EQ(odd["component"], "moe");
  EXPECT_EQ(odd["verdict"], GetParam().verdict) << finished.out;
  const std::string finding = odd.value("finding", "");
  EXPECT_TRUE(finding.starts_with(GetParam().finding)) << finding;
  EXPECT_NE(finding.find(GetParam().also), std::string::npos) << finding;
  EXPECT_EQ(cases[0]["verdict"], "PASS") << finished.out;
  EXPECT_EQ(cases[2]["verdict"], "PASS") << finished.out;
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(50));
}

INSTANTIATE_TEST_SUITE_P(
    Ways, OddRanksTest,
    ::testing::Values(
        RankOddity{"none", 0, "PASS", ""},
        RankOddity{
            "dies", 3, "CRASHED",
            "rank 1: crash: killed by SIGABRT (Aborted) in the middle of a call; rank 0: the port gave an "
            "error: ",
            "all_gather 3: rank 1 has ended"},
        RankOddity{"never_comes", 3, "HUNG",
                   "rank 1: hang: no answer within 4 s; rank 0: the port gave an error: ",
                   "all_gather 3: rank 1 did not come within 3.2 s"},
        RankOddity{"leaves", 1, "FAIL",
                   "rank 0: the port gave an error: ", "all_gather 3: rank 1 has left its run()"},
        RankOddity{"sends_more", 1, "FAIL", "rank 0: the port gave an error: ",
                   "all_gather 3: rank 1 sends 16 bytes, this rank expects 8"},
        RankOddity{"calls_another", 1, "FAIL",
                   "rank 0: the port gave an error: ", "all_gather 3: rank 1 calls all_to_all"},
        RankOddity{"declines", 1, "FAIL", "rank 0: the port gave an error: ",
                   "rank 1: not supported, as others do not say: no second rank"},
        RankOddity{"ignores_a_failure", 1, "FAIL",
                   "rank 0: failed exchange, and the port says that all is well: all_gather "},
        RankOddity{"changes_an_input", 1, "FAIL",
                   "rank 1: changed input: inputs/x[0, 0, 0] is not what it was"},
        RankOddity{"writes_before", 1, "FAIL",
                   "rank 1: out-of-bounds write: 1 bytes before the start of outputs/y"},
        RankOddity{"leaves_an_element", 1, "FAIL", "rank 1: unwritten output: 1 of "},
        RankOddity{"counts_calls", 1, "FAIL", "rank 1: depends on earlier calls: outputs/y[0, 0, 0] is "},
        RankOddity{"differs", 1, "FAIL", "ranks disagree: grads/gate.weight[0, 2], rank 0 has "}),
    [](const auto& info) { return std::string(info.param.way); });

/// A port whose ranks wait for each other by means of its own cannot notice: long before the limit they are
/// ended too.
TEST_F(OddRanks, ADeadRankEndsTheCallOfAll) {
  const auto began = std::chrono::steady_clock::now();
  const json cases = validate("dies_while_others_hang", {"moe__ep2_all_gather", "experts__ep2_all_gather"},
                              {"--timeout", "100"});
  EXPECT_EQ(finished.exit_code, 3) << finished.out;
  EXPECT_EQ(cases[0]["verdict"], "PASS") << finished.out;
  EXPECT_EQ(cases[1]["verdict"], "CRASHED") << finished.out;
  EXPECT_EQ(cases[1]["finding"],
            "rank 1: crash: killed by SIGABRT (Aborted) in the middle of a call; rank 0: still in its call 2 "
            "s after "
            "rank 1 had died");
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(50));
}

/// A table that ends before max_processes is still one of this version.
TEST_F(OddRanks, OlderTablesHaveNoProcesses) {
  const json cases = validate("is_of_the_first_version", {"moe__ep2_all_to_all", "mlp__swiglu_bias"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out;
  EXPECT_EQ(cases[0]["verdict"], "PASS") << finished.out;
  EXPECT_EQ(cases[1]["verdict"], "NOT_SUPPORTED") << finished.out;
  EXPECT_EQ(cases[1]["finding"], "odd ranks plays at most 1 ranks in one call; this one has 2");
}

TEST_F(OddRanks, ProcessesCanBeSwitchedOff) {
  const json cases = validate("none", {"moe__ep2_all_to_all"}, {"--processes", "1"});
  EXPECT_EQ(cases[0]["verdict"], "NOT_SUPPORTED") << finished.out;
}

/// The properties of ranks go the same way.
TEST_F(OddRanks, PropertiesSeeTheProcesses) {
  const auto check = [&](const char* way, const std::string& property) {
    return run_moeref(
        {"check", "--port", std::string(MOEREF_BROKEN_PORTS) + "/libbroken_odd_ranks.so", "--property",
         property, "--component", "moe", "--cases", "40", "--seed", "5", "--json", at("check.json").string()},
        {std::string("MOEREF_TEST_ODDITY=") + way});
  };
  EXPECT_EQ(check("none", "expert_ranks").exit_code, 0);
  const Finished found = check("differs", "expert_ranks");
  EXPECT_EQ(found.exit_code, 1) << found.out;
  EXPECT_NE(found.out.find("ranks disagree: grads/gate.weight"), std::string::npos) << found.out;
}

}  // namespace
}  // namespace moeref::testing
