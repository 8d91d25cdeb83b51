// What else a port can do wrong: each way its own finding, verdict and exit code, on one case with another
// one behind it.
#include <nlohmann/json.hpp>

#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

struct Oddity {
  const char* way;
  int exit_code;
  const char* verdict;
  const char* finding;  ///< of mlp__swiglu_bias; its beginning
};

void PrintTo(const Oddity& oddity, std::ostream* out) { *out << oddity.way; }

const std::string kPort = std::string(MOEREF_BROKEN_PORTS) + "/libbroken_odd_port.so";

class OddPort : public CommandTest {
 protected:
  Finished validate(const char* way) {
    const std::string cases = std::string(MOEREF_CASES) + "/";
    return run_moeref({"validate", "--port", kPort, "--json", at("report.json").string(),
                       cases + "mlp__swiglu_bias.h5", cases + "experts__swiglu.h5"},
                      {std::string("MOEREF_TEST_ODDITY=") + way});
  }
};

class OddPortTest : public OddPort, public ::testing::WithParamInterface<Oddity> {};

TEST_P(OddPortTest, IsFoundAndTheRunGoesOn) {
  const Finished finished = validate(GetParam().way);
  EXPECT_EQ(finished.exit_code, GetParam().exit_code) << finished.out << finished.err;
  const json report = json::parse(text_of(at("report.json")));
  const json &odd = report["cases"][1], &next = report["cases"][0];
  EXPECT_EQ(odd["verdict"], GetParam().verdict) << finished.out;
  const std::string finding = odd.value("finding", "");
  EXPECT_TRUE(finding.starts_with(GetParam().finding)) << finding;
  EXPECT_EQ(next["verdict"], "PASS") << finished.out;
}

INSTANTIATE_TEST_SUITE_P(
    Ways, OddPortTest,
    ::testing::Values(
        Oddity{"none", 0, "PASS", ""},
        Oddity{"exits", 3, "CRASHED", "exit: ended itself with exit code 7 in the middle of a call"},
        Oddity{"throws", 3, "CRASHED", "broke the ABI: a C++ exception left the port: no such tile"},
        Oddity{"returns_nonsense", 3, "CRASHED", "broke the ABI: run() returned 42"},
        Oddity{"withdraws", 1, "FAIL",
               "claimed capability: supports() said yes, and run() says: only on Tuesdays"},
        Oddity{"changes_an_input", 1, "FAIL", "changed input: inputs/x[0, 5] is not what it was"},
        Oddity{"writes_before", 1, "FAIL",
               "out-of-bounds write: 1 bytes before the start of outputs/y, up to 0 bytes"},
        Oddity{"leaves_an_element", 1, "FAIL", "unwritten output: 1 of "},
        Oddity{"adds_to_the_buffer", 1, "FAIL", "depends on buffer contents: outputs/y[0, 0] is "},
        Oddity{"counts_calls", 1, "FAIL", "depends on earlier calls: outputs/y[0, 0] is "},
        Oddity{"remembers", 1, "FAIL", "depends on earlier calls: outputs/y[0, 0] is "},
        Oddity{"is_random", 1, "FAIL", "not deterministic, though declared so: outputs/y"}),
    [](const auto& info) { return std::string(info.param.way); });

class BadTableTest : public OddPort, public ::testing::WithParamInterface<Oddity> {};

/// What is wrong from the start is the user's to know before any work.
TEST_P(BadTableTest, IsBadInput) {
  const std::string line = bad_input_line(validate(GetParam().way));
  EXPECT_TRUE(line.starts_with(kPort + ": " + GetParam().finding)) << line;
}

INSTANTIATE_TEST_SUITE_P(
    Ways, BadTableTest,
    ::testing::Values(Oddity{"gives_no_table", 2, "",
                             "does not speak version 1 of the port interface: moeref_port_entry gave NULL"},
                      Oddity{"has_a_short_table", 2, "", "its table has struct_size 16: want at least "},
                      Oddity{"has_another_version", 2, "", "its table has abi_version 7: want 1"},
                      Oddity{"has_no_run", 2, "", "its table has no run()"},
                      Oddity{"has_no_such_component", 2, "",
                             "the port's 'components' is \"gates\": want one of gate, aux_loss, "},
                      Oddity{"crashes_when_loaded", 2, "",
                             "killed by SIGABRT (Aborted) while it was being loaded"}),
    [](const auto& info) { return std::string(info.param.way); });

class BadLibraryTest : public CommandTest {
 protected:
  std::string complaint(const std::string& port, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"validate", "--port", port,
                                       std::string(MOEREF_CASES) + "/mlp__swiglu_bias.h5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return bad_input_line(run_moeref(arguments));
  }
};

TEST_F(BadLibraryTest, IsNamed) {
  EXPECT_EQ(complaint("/no/such/port.so"), "/no/such/port.so: does not exist");
  EXPECT_EQ(complaint("no_such_port.so"), "no_such_port.so: does not exist");
  EXPECT_EQ(complaint(folder_.string()), folder_.string() + ": is a folder: want a shared library");
  const std::string text = std::string(MOEREF_CASES) + "/MANIFEST.sha256";
  EXPECT_TRUE(complaint(text).starts_with(text + ": cannot be loaded: ")) << complaint(text);
}

TEST_F(BadLibraryTest, TimeoutIsChecked) {
  for (const char* seconds : {"0", "-1", "nan", "1e9"})
    EXPECT_TRUE(complaint(kPort, {"--timeout", seconds}).starts_with("--timeout is ")) << seconds;
}

}  // namespace
}  // namespace moeref::testing
