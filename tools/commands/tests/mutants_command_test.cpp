// moeref mutants.
#include <nlohmann/json.hpp>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

class MutantsTest : public CommandTest {};

const std::string kFewFiles = std::string(MOEREF_DOCUMENTED_SYSTEM) + "/gate__sigmoid_norm_scale_bf16.h5";

TEST_F(MutantsTest, SaysWhatKilledOne) {
  const std::string json = at("m.json").string(), html = at("m.html").string();
  const Finished finished = run_moeref(
      {"mutants", "scaled_twice", "--golden", kFewFiles, "--cases", "50", "--json", json, "--html", html});
  EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  EXPECT_TRUE(finished.out.ends_with("killed 1 of 1, 0 proven equivalent\n")) << finished.out;
  EXPECT_TRUE(holds(finished.out, "weight_sums")) << finished.out;
  const auto report = nlohmann::json::parse(text_of(json));
  EXPECT_EQ(report.at("killed"), 1);
  const auto& mutant = report.at("mutants").at(0);
  EXPECT_EQ(mutant.at("status"), "KILLED");
  EXPECT_EQ(mutant.at("failing"), 1);
  EXPECT_EQ(mutant.at("first_named").at("outputs/weights"), 1);
  EXPECT_EQ(mutant.at("properties").at(0).at("name"), "weight_sums");
  EXPECT_TRUE(holds(text_of(html), "data-verdict=\"KILLED\" data-component=\"gate\""));
}

TEST_F(MutantsTest, BadInputIsOneLine) {
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"mutants", "nobody", "--golden", kFewFiles})), "'nobody'"));
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"mutants", "--golden", kFewFiles, "--dtype", "float32"})),
                    "--dtype is 'float32'"));
  EXPECT_TRUE(holds(
      bad_input_line(run_moeref({"mutants", "scaled_twice", "--golden", kFewFiles, "--component", "mlp"})),
      "none of these mutants"));
}

}  // namespace
}  // namespace moeref::testing
