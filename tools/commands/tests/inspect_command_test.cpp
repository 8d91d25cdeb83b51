// moeref inspect, list, --help and --version.
#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

const std::string kGate = std::string(MOEREF_DOCUMENTED_SYSTEM) + "/gate__sigmoid.h5";

TEST(InspectTest, ShowsHeaderAndDatasets) {
  const Finished finished = run_moeref({"inspect", kGate});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_TRUE(holds(finished.out, "case       gate__sigmoid\n")) << finished.out;
  EXPECT_TRUE(holds(finished.out, "\"score_func\":\"sigmoid\"")) << finished.out;
  EXPECT_TRUE(holds(finished.out, "outputs/weights      float32  float32  [37, 2]")) << finished.out;
}

TEST(InspectTest, ShowsValues) {
  const Finished finished = run_moeref({"inspect", kGate, "--dataset", "outputs/indices", "--limit", "3"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_TRUE(holds(finished.out, "outputs/indices int64 [37, 2]\n[0, 0] ")) << finished.out;
  EXPECT_TRUE(holds(finished.out, "and 71 more")) << finished.out;
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"inspect", kGate, "--dataset", "outputs/z"})), "'outputs/z'"));
}

TEST(ListTest, ShowsWhatThereIs) {
  const Finished all = run_moeref({"list"});
  EXPECT_EQ(all.exit_code, 0) << all.err;
  for (const char* part : {"results:DIR", "fake_balanced_gate", "gate__sigmoid", "deepseek_v3"})
    EXPECT_TRUE(holds(all.out, part)) << part;
  const Finished presets = run_moeref({"list", "presets"});
  EXPECT_TRUE(holds(presets.out, "qwen3_30b"));
  EXPECT_FALSE(holds(presets.out, "results:DIR"));
  const Finished fields = run_moeref({"list", "fields"});
  for (const char* part :
       {"must be given", "route_scale", "tokens_per_rank", "factor on the routing weights"})
    EXPECT_TRUE(holds(fields.out, part)) << part;
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"list", "presets", "--json"})), "--json"));
}

TEST(HelpTest, GoesToStdout) {
  for (const char* command : {"list", "generate", "validate", "inspect"}) {
    const Finished finished = run_moeref({command, "--help"});
    EXPECT_EQ(finished.exit_code, 0);
    EXPECT_TRUE(holds(finished.out, "--help")) << finished.out;
    EXPECT_EQ(finished.err, "");
    EXPECT_TRUE(holds(run_moeref({"--help"}).out, command));
  }
  EXPECT_EQ(run_moeref({"--version"}).out, "moeref " MOEREF_VERSION "\n");
}

}  // namespace
}  // namespace moeref::testing
