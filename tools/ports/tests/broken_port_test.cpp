// Ports that are wrong in one way each: the finding names the stage or tensor, the exit code is right, and
// the run goes on.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "tools/tests/holds.hpp"
#include "tools/tests/run_command.hpp"

namespace moeref::testing {
namespace {

using nlohmann::json;

/// What `validate` says of a port on some cases of ours.
class BrokenPortTest : public CommandTest {
 protected:
  void validate(const std::string& port, const std::vector<std::string>& cases,
                std::vector<std::string> more = {}) {
    std::vector<std::string> arguments{"validate", "--port",
                                       std::string(MOEREF_BROKEN_PORTS) + "/libbroken_" + port + ".so",
                                       "--json", at("report.json").string()};
    for (const std::string& name : cases) arguments.push_back(std::string(MOEREF_CASES) + "/" + name + ".h5");
    arguments.insert(arguments.end(), more.begin(), more.end());
    finished = run_moeref(arguments);
    EXPECT_EQ(finished.err, "");
    report = json::parse(text_of(at("report.json")));
  }

  const json& one(const std::string& name) const {
    for (const json& entry : report["cases"])
      if (entry["component"].get<std::string>() + "__" + entry["case"].get<std::string>() == name)
        return entry;
    throw std::runtime_error("no case " + name + " in " + finished.out);
  }
  std::string verdict(const std::string& name) const { return one(name)["verdict"]; }
  std::string finding(const std::string& name) const { return one(name).value("finding", ""); }
  std::string first_wrong_tensor(const std::string& name) const {
    for (const json& tensor : one(name)["tensors"])
      if (tensor["verdict"] == "FAIL")
        return tensor["subject"].get<std::string>() + " " + tensor["tensor"].get<std::string>();
    return "";
  }

  Finished finished;
  json report;
};

TEST_F(BrokenPortTest, WeightsFromBiasedScores) {
  validate("biased_weights",
           {"gate__correction_bias_offset", "gate__correction_bias_forces_expert", "mlp__swiglu_bias"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  for (const char* name : {"gate__correction_bias_offset", "gate__correction_bias_forces_expert"}) {
    EXPECT_EQ(verdict(name), "FAIL");
    EXPECT_EQ(first_wrong_tensor(name), "port stages/scores");
  }
  EXPECT_EQ(verdict("mlp__swiglu_bias"), "PASS");
}

TEST_F(BrokenPortTest, SwappedHalvesOfOneActivation) {
  validate("swapped_halves",
           {"experts__geglu", "experts__geglu_bias", "experts__swiglu", "experts__quick_geglu"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  EXPECT_EQ(first_wrong_tensor("experts__geglu"), "port stages/activation");
  EXPECT_EQ(first_wrong_tensor("experts__geglu_bias"), "port stages/activation");
  EXPECT_EQ(verdict("experts__swiglu"), "PASS");
  EXPECT_EQ(verdict("experts__quick_geglu"), "PASS");
}

TEST_F(BrokenPortTest, AuxiliaryLossOverPadding) {
  validate("loss_over_padding", {"gate__softmax_after_topk_norm", "gate__ties_all_equal", "experts__swiglu"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  EXPECT_EQ(first_wrong_tensor("gate__softmax_after_topk_norm"), "port outputs/aux_loss");
  EXPECT_EQ(first_wrong_tensor("gate__ties_all_equal"), "port outputs/aux_loss");
  EXPECT_EQ(verdict("experts__swiglu"), "PASS");
}

TEST_F(BrokenPortTest, GradientsOfIdleExpertsUnwritten) {
  validate("unwritten_gradients", {"experts__empty_experts", "experts__top1", "mlp__swiglu_bias"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  EXPECT_EQ(finding("experts__top1"),
            "unwritten output: 192 of 768 elements of grads/down_projs were left as they were, the first at "
            "[1, 0, 0]");
  EXPECT_TRUE(holds(finding("experts__empty_experts"), "elements of grads/down_projs were left as they were"))
      << finished.out;
  EXPECT_EQ(first_wrong_tensor("experts__top1"), "port grads/down_projs");
  EXPECT_EQ(verdict("mlp__swiglu_bias"), "PASS");
}

TEST_F(BrokenPortTest, Crash) {
  validate("crash", {"experts__swiglu", "mlp__swiglu_bias", "gate__ties_all_equal", "mlp__swiglu_limit"});
  EXPECT_EQ(finished.exit_code, 3) << finished.out;
  for (const char* name : {"mlp__swiglu_bias", "mlp__swiglu_limit"}) {
    EXPECT_EQ(verdict(name), "CRASHED");
    EXPECT_EQ(finding(name),
              "crash: killed by SIGSEGV (Segmentation fault) in the middle of a call; it printed: mlp: "
              "loading tile 3");
  }
  for (const char* name : {"experts__swiglu", "gate__ties_all_equal"}) EXPECT_EQ(verdict(name), "PASS");
}

TEST_F(BrokenPortTest, Hang) {
  validate("hang", {"experts__swiglu", "mlp__swiglu_bias", "gate__ties_all_equal"}, {"--timeout", "0.4"});
  EXPECT_EQ(finished.exit_code, 3) << finished.out;
  EXPECT_EQ(verdict("mlp__swiglu_bias"), "HUNG");
  EXPECT_EQ(finding("mlp__swiglu_bias"), "hang: no answer within 0.4 s");
  for (const char* name : {"experts__swiglu", "gate__ties_all_equal"}) EXPECT_EQ(verdict(name), "PASS");
}

TEST_F(BrokenPortTest, WritePastTheEnd) {
  validate("write_past_the_end", {"experts__swiglu", "mlp__swiglu_bias", "gate__ties_all_equal"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  EXPECT_EQ(verdict("mlp__swiglu_bias"), "FAIL");
  const std::string text = finding("mlp__swiglu_bias");
  EXPECT_TRUE(text.starts_with("out-of-bounds write: ")) << text;
  EXPECT_TRUE(text.ends_with(" bytes behind the end of outputs/y, from 0 bytes after it on")) << text;
  EXPECT_EQ(first_wrong_tensor("mlp__swiglu_bias"), "");
  for (const char* name : {"experts__swiglu", "gate__ties_all_equal"}) EXPECT_EQ(verdict(name), "PASS");
}

TEST_F(BrokenPortTest, ReferenceInDisguise) {
  validate("secret_reference",
           {"experts__relu2", "mlp__swiglu_bias", "experts__bf16_swiglu", "experts__integers"});
  EXPECT_EQ(finished.exit_code, 1) << finished.out;
  for (const char* name : {"experts__relu2", "mlp__swiglu_bias"}) {
    EXPECT_EQ(verdict(name), "FAIL");
    EXPECT_TRUE(
        finding(name).starts_with("identity: every result equals the fp64 reference, correctly rounded"))
        << finding(name);
    EXPECT_EQ(first_wrong_tensor(name), "");
  }
  // Exact data look the same whoever computed.
  EXPECT_EQ(verdict("experts__integers"), "PASS");
  EXPECT_EQ(verdict("experts__bf16_swiglu"), "NOT_SUPPORTED");
}

}  // namespace
}  // namespace moeref::testing
