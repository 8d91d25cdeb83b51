// moeref agree: honest ports agree, and of a pair with a broken one it is said which is wrong.
#include <nlohmann/json.hpp>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

class AgreeTest : public CommandTest {
 protected:
  Finished agree(const std::string& a, const std::string& b, std::vector<std::string> more) {
    std::vector<std::string> arguments{"agree", a, b, "--json", at("agree.json").string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished finished = run_moeref(arguments);
    if (std::filesystem::exists(at("agree.json"))) report = json::parse(text_of(at("agree.json")));
    return finished;
  }
  static std::string eager(const std::string& port) {
    return std::string(MOEREF_EAGER_PORTS) + "/libeager_" + port + ".so";
  }
  static std::string broken(const std::string& port) {
    return std::string(MOEREF_BROKEN_PORTS) + "/libbroken_" + port + ".so";
  }

  json report;
};

TEST_F(AgreeTest, TheReferenceAndTheExamplePort) {
  const Finished finished = agree("cpu", MOEREF_EXAMPLE_PORT, {"--cases", "24", "--seed", "3"});
  EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  EXPECT_GT(report["tokens"], 100);
  EXPECT_GT(report["tensors"]["outputs/y"]["differing"], 0);
  EXPECT_LE(report["tensors"]["outputs/y"]["worst"], 1.0);
}

TEST_F(AgreeTest, RoundingExplainsOtherChoices) {
  const std::vector<std::string> how{"--cases", "20", "--seed", "1", "--component", "gate", "--forward-only"};
  const Finished exact = agree("cpu", eager("fused"), how);
  EXPECT_EQ(exact.exit_code, 0) << exact.out << exact.err;
  EXPECT_GT(report["explained"], 0) << exact.out;
  EXPECT_TRUE(holds(exact.out, " 0 unexplained; values within bounds (worst ")) << exact.out;
  const Finished rounded = agree(eager("eager"), eager("fused"), how);
  EXPECT_EQ(rounded.exit_code, 0) << rounded.out << rounded.err;
  EXPECT_GT(report["tensors"]["outputs/weights"]["differing"], 0) << rounded.out;
}

TEST_F(AgreeTest, ABrokenPortIsTheWrongOne) {
  const Finished finished = agree(broken("swapped_halves"), MOEREF_EXAMPLE_PORT,
                                  {"--cases", "8", "--seed", "5", "--component", "experts"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  ASSERT_FALSE(report["unexplained"].empty());
  for (const json& one : report["unexplained"]) EXPECT_EQ(one["wrong"], "A") << one;
  EXPECT_TRUE(holds(finished.out, "values beyond bounds")) << finished.out;
}

TEST_F(AgreeTest, GoldenFilesInPlaceOfDraws) {
  const auto file = copy_case("gate__sigmoid_norm_scale_bf16", at("cases"));
  const Finished finished = agree("cpu", eager("eager"), {file.string()});
  EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  EXPECT_EQ(report["calls"], 1);
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"agree", "cpu", "results:x"})), "name the golden files"));
}

}  // namespace
}  // namespace moeref::testing
