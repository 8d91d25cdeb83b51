// moeref generate: what it writes, and that bad input leaves nothing behind.
#include <fstream>
#include <nlohmann/json.hpp>

#include "tools/commands/tests/damaged_golden.hpp"
#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class GenerateTest : public CommandTest {
 protected:
  Finished generate(std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--out", at("out").string()});
    return run_moeref(more);
  }

  std::string write_config(const std::string& text) const {
    std::ofstream(at("My Layer.json")) << text;
    return at("My Layer.json").string();
  }

  static json small_layer() {
    return {{"n_routed_experts", 8},
            {"n_shared_experts", 1},
            {"n_activated_experts", 2},
            {"n_expert_groups", 1},
            {"n_limited_groups", 1},
            {"train_gate", true},
            {"dim", 16},
            {"inter_dim", 32},
            {"gate_bias_update_factor", 0.0},
            {"aux_loss_coeff", 0.01},
            {"moe_inter_dim", 8},
            {"score_func", "softmax"},
            {"route_scale", 1.0},
            {"norm_topk_prob", true},
            {"dtype", "float32"}};
  }

  /// Generated files are what the reference computes, to the bit.
  void expect_valid() {
    const Finished finished = run_moeref({"validate", "--port", "cpu", at("out").string()});
    EXPECT_EQ(finished.exit_code, 0) << finished.out << finished.err;
  }
};

TEST_F(GenerateTest, TheCatalogueUnderOtherRules) {
  const Finished finished =
      generate({"--case", "sigmoid_groups_bias", "--case", "softmax_groups_ignored", "--case", "mlp__swiglu",
                "--set", "discarded_groups=minus_infinity", "--set", "group_score=largest", "--align", "64",
                "--mask", "every_second"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(
      finished.err,
      "left out: gate__softmax_groups_ignored: config field 'group_score' is \"largest\": want by_score_func "
      "with score_func softmax, which selects logits; softmax_with_bias selects scores\n");
  EXPECT_EQ(names(), (std::vector<std::string>{"out", "out/MANIFEST.sha256",
                                               "out/gate__sigmoid_groups_bias.h5", "out/mlp__swiglu.h5"}));
  const Finished shown = run_moeref({"inspect", (at("out") / "gate__sigmoid_groups_bias.h5").string()});
  EXPECT_TRUE(holds(shown.out, "minus_infinity")) << shown.out;
  expect_valid();
}

TEST_F(GenerateTest, ProfilesNameSuchSets) {
  const Finished finished =
      generate({"--case", "experts__swiglu", "--case", "moe__aux", "--profile", "inference"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  expect_valid();
  const Finished unknown = generate({"--profile", "none"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_TRUE(
      holds(unknown.err, "--profile is 'none': want one of inference, megatron, torchtitan, transformers"))
      << unknown.err;
  EXPECT_TRUE(holds(generate({"--set", "norm_epsilon=1"}).err, "'norm_epsilon'"));
  EXPECT_TRUE(holds(generate({"--set", "norm_eps"}).err, "want FIELD=VALUE"));
}

TEST_F(GenerateTest, CasesOfTheCatalogue) {
  const Finished finished =
      generate({"--component", "gate", "--case", "sigmoid", "--case", "gate__softmax_before_topk"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_EQ(finished.err, "");
  EXPECT_EQ(names(), (std::vector<std::string>{"out", "out/MANIFEST.sha256", "out/gate__sigmoid.h5",
                                               "out/gate__softmax_before_topk.h5"}));
  expect_valid();
}

TEST_F(GenerateTest, SameBytesEveryTime) {
  generate({"--case", "gate__sigmoid"});
  const std::string first = text_of(at("out/gate__sigmoid.h5"));
  generate({"--case", "gate__sigmoid"});
  EXPECT_EQ(text_of(at("out/gate__sigmoid.h5")), first);
  EXPECT_FALSE(first.empty());
}

TEST_F(GenerateTest, PresetAtReducedWidth) {
  const Finished finished = generate({"--preset", "qwen3_30b", "--tokens", "5", "--dtype", "float32"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_TRUE(fs::exists(at("out/moe__qwen3_30b.h5")));
  expect_valid();
  EXPECT_TRUE(holds(run_moeref({"inspect", at("out/moe__qwen3_30b.h5").string()}).out, "[5, 16]"));
}

TEST_F(GenerateTest, OwnLayer) {
  const Finished finished =
      generate({"--config", write_config(small_layer().dump()), "--tokens", "9", "--seed", "7"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_TRUE(fs::exists(at("out/moe__my_layer.h5")));
  EXPECT_TRUE(holds(finished.err, "My Layer.json: its case is named my_layer: ")) << finished.err;
  expect_valid();
}

TEST_F(GenerateTest, OwnLayerByParts) {
  const json parts{
      {"component", "gate"}, {"config", small_layer()}, {"call", {{"training", false}}}, {"tokens", {6}}};
  EXPECT_EQ(
      generate({"--config", write_config(parts.dump()), "--component", "gate", "--component", "experts"})
          .exit_code,
      0);
  EXPECT_TRUE(fs::exists(at("out/gate__my_layer.h5")));
  EXPECT_TRUE(fs::exists(at("out/experts__my_layer.h5")));
  expect_valid();
}

TEST_F(GenerateTest, ChangedValueInAnOwnFileIsFoundBelowItsBound) {
  ASSERT_EQ(generate({"--preset", "qwen3_30b", "--tokens", "4"}).exit_code, 0);
  const fs::path file = at("out/moe__qwen3_30b.h5");
  const double value = value_at(file, "outputs/y", 3);
  set_value(file, "outputs/y", 3, value * (1.0 + 1e-6));
  const Finished finished = run_moeref({"validate", "--port", "cpu", file.string()});
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_TRUE(holds(finished.out, "not the bits of this reference: outputs/y[0, 3]")) << finished.out;
}

TEST_F(GenerateTest, BadConfigsNameFileAndField) {
  const auto line_of = [&](const std::string& text) {
    const std::string file = write_config(text);
    const std::string line = bad_input_line(generate({"--config", file, "--tokens", "4"}));
    EXPECT_TRUE(line.starts_with(file + ": ")) << line;
    EXPECT_FALSE(fs::exists(at("out")));
    return line;
  };
  const auto with = [](const std::string& field, const json& value) {
    json layer = small_layer();
    layer[field] = value;
    return layer.dump();
  };
  json lacking = small_layer();
  lacking.erase("dim");
  EXPECT_TRUE(holds(line_of(with("n_experts", 8)), "'n_experts'"));
  EXPECT_TRUE(holds(line_of(with("n_activated_experts", 9)), "'n_activated_experts'"));
  EXPECT_TRUE(holds(line_of(with("n_expert_groups", 3)), "'n_expert_groups'"));
  EXPECT_TRUE(holds(line_of(with("score_func", "tanh")), "'score_func'"));
  EXPECT_TRUE(holds(line_of(with("dim", -16)), "'dim'"));
  EXPECT_TRUE(holds(line_of(with("dtype", "int64")), "'dtype'"));
  EXPECT_TRUE(holds(line_of(lacking.dump()), "'dim'"));
  EXPECT_TRUE(holds(line_of(json{{"config", small_layer()}, {"components", "moe"}}.dump()), "'components'"));
  EXPECT_TRUE(holds(line_of(json{{"config", small_layer()}, {"component", "router"}}.dump()), "'router'"));
  EXPECT_TRUE(
      holds(line_of(json{{"config", small_layer()}, {"call", {{"trainig", true}}}}.dump()), "'trainig'"));
  EXPECT_TRUE(holds(line_of("{\"dim\": 32"), "line 1"));
  EXPECT_TRUE(holds(line_of("[1, 2]"), "JSON object"));
  line_of("");
}

TEST_F(GenerateTest, BadUsageNamesTheOption) {
  EXPECT_TRUE(holds(bad_input_line(generate({"--component", "router"})), "'router'"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--case", "no_such_case"})), "'no_such_case'"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--preset", "gpt_9"})), "'gpt_9'"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--preset", "qwen3_30b", "--config", "x.json"})), "--config"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--full-width"})), "--full-width"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--tokens", "5"})), "--tokens"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--preset", "qwen3_30b", "--tokens", "-1"})), "tokens"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--preset", "qwen3_30b", "--tokens", "many"})), "--tokens"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--preset", "qwen3_30b", "--dtype", "int8"})), "int8"));
  EXPECT_TRUE(holds(bad_input_line(generate({"--config", at("none.json").string()})), "none.json"));
  EXPECT_TRUE(holds(bad_input_line(run_moeref({"generate", "--preset", "qwen3_30b"})), "--out"));
  EXPECT_EQ(names(), std::vector<std::string>{});
}

TEST_F(GenerateTest, LayerTooLargeForTheMachineIsRefused) {
  const std::string line =
      bad_input_line(generate({"--preset", "deepseek_v3", "--full-width", "--tokens", "4194304"}));
  EXPECT_TRUE(holds(line, "GiB")) << line;
  EXPECT_EQ(names(), std::vector<std::string>{});
}

TEST_F(GenerateTest, OutMustBeAFolder) {
  std::ofstream(at("out")) << "in the way";
  bad_input_line(generate({"--case", "gate__sigmoid"}));
  EXPECT_EQ(text_of(at("out")), "in the way");
}

}  // namespace
}  // namespace moeref::testing
