// exec:COMMAND: programs that answer requests, here shell scripts that hand out recorded results.
#include <signal.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "moeref/golden_file.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ExecPortTest : public CommandTest {
 protected:
  /// A script that answers hello with `hello` and runs `on_run` for every other request, with $output set.
  std::string port(const std::string& hello, const std::string& on_run) {
    std::ofstream(at("port.sh"))
        << "while read -r line; do\n"
        << "  case \"$line\" in *hello*) echo '" << hello << "'; continue;; esac\n"
        << "  output=$(echo \"$line\" | sed 's/.*\"output\":\"\\([^\"]*\\)\".*/\\1/')\n"
        << on_run << "\ndone\n";
    return "exec:sh " + at("port.sh").string();
  }
  /// Copies recorded results as the port's.
  static std::string answer_with(const std::string& name) {
    return "cp " + std::string(MOEREF_DOCUMENTED_SYSTEM) + "/" + name +
           ".h5 \"$output\"; echo '{\"status\":\"ok\"}'";
  }

  Finished validate(const std::string& port, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"validate", "--port", port, "--json", at("report.json").string(),
                                       kCase};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_moeref(arguments);
  }
  json only_case() const { return json::parse(text_of(at("report.json")))["cases"][0]; }
  std::string finding() const { return only_case().value("finding", ""); }

  const std::string kCase = std::string(MOEREF_DOCUMENTED_SYSTEM) + "/mlp__swiglu.h5";
  const std::string kHello = R"({"name":"sh","deterministic":true})";
};

TEST_F(ExecPortTest, RightResultsPass) {
  const Finished finished = validate(port(kHello, answer_with("mlp__swiglu")));
  EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  EXPECT_EQ(only_case()["verdict"], "PASS");
}

TEST_F(ExecPortTest, WrongResultsFail) {
  const Finished finished = validate(port(kHello, answer_with("mlp__swiglu_bias")));
  EXPECT_EQ(finished.exit_code, 1) << finished.out << finished.err;
}

TEST_F(ExecPortTest, RequestHoldsTheCallAlone) {
  const std::string save = "cp \"$(echo \"$line\" | sed 's/.*\"input\":\"\\([^\"]*\\)\".*/\\1/')\" " +
                           at("asked.h5").string() + "; echo \"$line\" > " + at("line").string() + "; ";
  ASSERT_EQ(validate(port(kHello, save + answer_with("mlp__swiglu"))).exit_code, 0);
  const json request = json::parse(text_of(at("line")));
  EXPECT_EQ(request["request"], "run");
  EXPECT_EQ(request["case"], "mlp__swiglu");
  EXPECT_EQ(request["component"], "mlp");
  EXPECT_EQ(request["backward"], true);
  std::string groups;
  for (const DatasetInfo& dataset : read_golden_header(at("asked.h5")).datasets) groups += dataset.path[0];
  EXPECT_NE(groups.find('i'), std::string::npos);
  EXPECT_EQ(groups.find_first_not_of("ipc"), std::string::npos)
      << groups;  // inputs, params and cotangents alone
  EXPECT_FALSE(fs::exists(request["input"].get<std::string>()));
}

TEST_F(ExecPortTest, AnswersAreVerdicts) {
  EXPECT_EQ(validate(port(kHello, R"(echo '{"status":"not_supported","reason":"no MLP"}')")).exit_code,
            1);  // nothing ran
  EXPECT_EQ(only_case()["verdict"], "NOT_SUPPORTED");
  EXPECT_EQ(finding(), "no MLP");
  EXPECT_EQ(validate(port(kHello, R"(echo '{"status":"error","reason":"out of memory"}'; echo 'tile 3' >&2)"))
                .exit_code,
            1);
  EXPECT_TRUE(finding().starts_with("the port gave an error: out of memory")) << finding();
  EXPECT_EQ(validate(port(kHello, R"(echo '{"status":"ok"}')")).exit_code, 1);
  EXPECT_EQ(finding(), "the port answered ok and wrote no results file");
  EXPECT_EQ(validate(port(kHello, R"(echo junk > "$output"; echo '{"status":"ok"}')")).exit_code, 1);
  EXPECT_TRUE(finding().starts_with("the port wrote an unreadable results file: ")) << finding();
}

TEST_F(ExecPortTest, BrokenProtocolIsFound) {
  EXPECT_EQ(validate(port(kHello, "echo computing...; " + answer_with("mlp__swiglu"))).exit_code, 3);
  EXPECT_EQ(finding(), "broke the protocol: answered 'computing...', which is no JSON object");
  EXPECT_EQ(validate(port(kHello, R"(echo '{"status":"done"}')")).exit_code, 3);
  EXPECT_EQ(finding(), "broke the protocol: answered the status 'done': want ok, not_supported or error");
  EXPECT_EQ(validate(port(kHello, "echo last words >&2; exit 5")).exit_code, 3);
  EXPECT_EQ(finding(), "exit: ended itself with exit code 5 in the middle of a call; it printed: last words");
  EXPECT_EQ(validate(port(kHello, "kill -9 $$")).exit_code, 3);
  EXPECT_EQ(finding(), "crash: killed by SIGKILL (Killed) in the middle of a call; it printed: Killed");
}

TEST_F(ExecPortTest, BadStartIsBadInput) {
  EXPECT_TRUE(bad_input_line(validate("exec:moeref-no-such-program"))
                  .starts_with("exec:moeref-no-such-program: ended itself with exit code 127 in answer to "
                               "hello; it printed: "));
  const std::string chatty = port("Hello!", "");
  EXPECT_EQ(bad_input_line(validate(chatty)),
            chatty + ": broke the protocol in answer to hello: said 'Hello!', which is no JSON object");
  const std::string odd = port(R"({"name":"sh","ties":"first"})", "");
  EXPECT_EQ(bad_input_line(validate(odd)),
            odd + ": the port's 'ties' is \"first\": want \"open\" or \"lowest_id\"");
  EXPECT_TRUE(bad_input_line(validate("exec:sleep 100", {"--timeout", "0.2"}))
                  .starts_with("exec:sleep 100: said nothing within 2.4 s in answer to hello"));
  bad_input_line(validate("exec:"));
}

TEST_F(ExecPortTest, HangIsEndedWithAllThatItStarted) {
  const std::string wait = "sleep 1000 & echo $! > " + at("pid").string() + "; wait";
  EXPECT_EQ(validate(port(kHello, wait), {"--timeout", "1"}).exit_code, 3);
  EXPECT_EQ(only_case()["verdict"], "HUNG");
  EXPECT_EQ(finding(), "hang: no answer within 1 s");
  const pid_t started = std::stoi(text_of(at("pid")));
  for (int tries = 0; tries < 100 && ::kill(started, 0) == 0; ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until whoever inherits it has taken note
  EXPECT_TRUE(::kill(started, 0) != 0 && errno == ESRCH);
}

TEST_F(ExecPortTest, MemoryOfEarlierCallsIsFound) {
  const std::string first = answer_with("mlp__swiglu"), then = answer_with("mlp__swiglu_bias");
  EXPECT_EQ(validate(port(kHello, "n=$((n + 1)); if [ $n = 1 ]; then " + first + "; else " + then + "; fi"))
                .exit_code,
            1);
  EXPECT_TRUE(finding().starts_with("depends on earlier calls: ")) << finding();
}

}  // namespace
}  // namespace moeref::testing
