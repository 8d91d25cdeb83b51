// Bad input, whatever it is: exit code 2, one line that names the file and what is wrong in it, nothing
// written.
#include <cmath>
#include <fstream>
#include <functional>

#include "tools/commands/tests/damaged_golden.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

namespace fs = std::filesystem;

struct BadFile {
  const char* name;
  std::function<void(const fs::path&)> damage;
  const char* says;  ///< what the line must hold beside the file's name
};

void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.name; }

const std::vector<BadFile> kBadFiles{
    {"unknown_config_field", [](const fs::path& f) { set_field(f, "config", "n_experts", "8"); },
     "'n_experts'"},
    {"unknown_call_option", [](const fs::path& f) { set_field(f, "call", "trainig", "true"); }, "'trainig'"},
    {"wrong_type_of_field", [](const fs::path& f) { set_field(f, "config", "dim", "\"32\""); }, "'dim'"},
    {"unknown_score_func", [](const fs::path& f) { set_field(f, "config", "score_func", "\"tanh\""); },
     "'score_func'"},
    {"impossible_config", [](const fs::path& f) { set_field(f, "config", "n_activated_experts", "9"); },
     "'n_activated_experts'"},
    {"impossible_groups", [](const fs::path& f) { set_field(f, "config", "n_expert_groups", "3"); },
     "'n_expert_groups'"},
    {"config_that_is_no_json", [](const fs::path& f) { set_text(f, "config", "{\"dim\": 32"); }, "'config'"},
    {"unknown_component", [](const fs::path& f) { set_text(f, "component", "router"); }, "'router'"},
    {"unknown_schema_version", [](const fs::path& f) { set_number(f, "schema_version", 2); },
     "schema_version"},
    {"missing_input", [](const fs::path& f) { remove_dataset(f, "inputs/x"); }, "'inputs/x'"},
    {"missing_output", [](const fs::path& f) { remove_dataset(f, "outputs/weights"); }, "'outputs/weights'"},
    {"missing_gradient", [](const fs::path& f) { remove_dataset(f, "grads/weight"); }, "'grads/weight'"},
    {"misshapen_param",
     [](const fs::path& f) {
       replace_dataset(f, "params/weight", DType::float32, {8, 31});
     },
     "'params/weight'"},
    {"misshapen_output",
     [](const fs::path& f) {
       replace_dataset(f, "outputs/weights", DType::float32, {37, 3});
     },
     "'outputs/weights'"},
    {"integers_for_reals",
     [](const fs::path& f) {
       replace_dataset(f, "params/weight", DType::int64, {8, 32});
     },
     "'params/weight'"},
    {"reals_for_ids",
     [](const fs::path& f) {
       replace_dataset(f, "outputs/indices", DType::float32, {37, 2});
     },
     "'outputs/indices'"},
    {"unknown_dataset", [](const fs::path& f) { replace_dataset(f, "inputs/extra", DType::float32, {2}); },
     "'inputs/extra'"},
    {"nan_in_input", [](const fs::path& f) { set_value(f, "inputs/x", 70, NAN); }, "'inputs/x'"},
    {"infinity_in_param", [](const fs::path& f) { set_value(f, "params/weight", 3, INFINITY); },
     "'params/weight'"},
    {"truncated", [](const fs::path& f) { truncate(f, fs::file_size(f) / 2); }, ""},
    {"a_few_bytes", [](const fs::path& f) { truncate(f, 7); }, ""},
    {"empty", [](const fs::path& f) { truncate(f, 0); }, ""},
    {"no_hdf5", [](const fs::path& f) { std::ofstream(f) << "not an HDF5 file at all\n"; }, "HDF5"},
};

class BadFileTest : public CommandTest, public ::testing::WithParamInterface<BadFile> {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    copy_case("gate__sigmoid_bf16", at("golden"));  // a good file first: nothing may come of it either
    bad_ = copy_case("gate__sigmoid", at("golden"));
    GetParam().damage(bad_);
    before_ = names();
  }

  fs::path bad_;
  std::vector<std::string> before_;
};

TEST_P(BadFileTest, Validate) {
  const std::string line =
      bad_input_line(run_moeref({"validate", "--port", "cpu", at("golden").string(), "--json",
                                 at("report.json").string(), "--junit", at("report.xml").string()}));
  EXPECT_TRUE(line.starts_with(bad_.string() + ": ")) << line;
  EXPECT_NE(line.find(GetParam().says), std::string::npos) << line;
  EXPECT_EQ(names(), before_);
}

TEST_P(BadFileTest, Inspect) {
  const std::string line = bad_input_line(run_moeref({"inspect", bad_.string()}));
  EXPECT_TRUE(line.starts_with(bad_.string() + ": ")) << line;
  EXPECT_NE(line.find(GetParam().says), std::string::npos) << line;
}

INSTANTIATE_TEST_SUITE_P(Files, BadFileTest, ::testing::ValuesIn(kBadFiles),
                         [](const auto& info) { return std::string(info.param.name); });

using BadUsageTest = CommandTest;

TEST_F(BadUsageTest, Commands) {
  bad_input_line(run_moeref({}));
  EXPECT_NE(bad_input_line(run_moeref({"valdate"})).find("'valdate'"), std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"list", "ports"})).find("'ports'"), std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"validate", "x.h5"})).find("--port"), std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"validate", "--port", "cpu"})).find("FILE_OR_DIR"), std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"validate", "--port", "cpu", "--fast", "x.h5"})).find("--fast"),
            std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"validate", "--port", "gpu", MOEREF_DOCUMENTED_SYSTEM})).find("'gpu'"),
            std::string::npos);
}

TEST_F(BadUsageTest, Places) {
  const std::string missing = at("nothing.h5").string();
  EXPECT_NE(bad_input_line(run_moeref({"validate", "--port", "cpu", missing})).find(missing),
            std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"inspect", missing})).find(missing), std::string::npos);
  fs::create_directories(at("empty"));
  EXPECT_NE(
      bad_input_line(run_moeref({"validate", "--port", "cpu", at("empty").string()})).find("holds no .h5"),
      std::string::npos);
  EXPECT_NE(bad_input_line(run_moeref({"inspect", at("empty").string()})).find(at("empty").string()),
            std::string::npos);
}

TEST_F(BadUsageTest, ReportsThatCannotBeWritten) {
  const std::string golden = copy_case("mlp__swiglu", at("golden")).string();
  const std::string nowhere = at("no/such/folder/report.json").string();
  EXPECT_NE(
      bad_input_line(run_moeref({"validate", "--port", "cpu", golden, "--json", nowhere})).find(nowhere),
      std::string::npos);
  bad_input_line(run_moeref({"validate", "--port", "cpu", golden, "--junit", at("golden").string()}));
  EXPECT_EQ(names(), (std::vector<std::string>{"golden", "golden/mlp__swiglu.h5"}));
}

TEST_F(BadUsageTest, NamesWithLineFeedsStayOneLine) {
  bad_input_line(run_moeref({"validate", "--port", "cpu", at("a\nb\x1b.h5").string()}));
}

}  // namespace
}  // namespace moeref::testing
