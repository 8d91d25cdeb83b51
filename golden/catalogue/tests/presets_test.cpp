#include "golden/catalogue/presets.hpp"

#include <gtest/gtest.h>

#include "golden/catalogue/case_builder.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"

namespace moeref {
namespace {

TEST(Presets, AreTheModelsThatWePromise) {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.push_back(preset.name);
  EXPECT_EQ(names, (std::vector<std::string>{"mixtral_8x7b", "qwen2_moe", "qwen3_30b", "deepseek_v3",
                                             "deepseek_v4", "moonlight", "gpt_oss_120b", "olmoe", "glm_4_5",
                                             "nemotron_3_nano", "minimax_m3", "gemma_4", "kimi_k3"}));
}

TEST(Presets, AreValidAtBothWidths) {
  for (const Preset& preset : presets()) {
    for (const MoEConfig& config : {preset.full, preset.reduced}) {
      EXPECT_NO_THROW(parse_moe_config(to_json(config))) << preset.name;
      EXPECT_EQ(config.dtype, DType::bfloat16) << preset.name;
    }
    EXPECT_NO_THROW(parse_call_options(preset.options)) << preset.name;
  }
}

TEST(Presets, ReductionKeepsTheRoutingAndTheStructure) {
  for (const Preset& preset : presets()) {
    const MoEConfig &full = preset.full, &small = preset.reduced;
    EXPECT_EQ(full.n_routed_experts, small.n_routed_experts) << preset.name;
    EXPECT_EQ(full.n_activated_experts, small.n_activated_experts) << preset.name;
    EXPECT_EQ(full.n_expert_groups, small.n_expert_groups) << preset.name;
    EXPECT_EQ(full.n_limited_groups, small.n_limited_groups) << preset.name;
    EXPECT_EQ(full.score_func, small.score_func) << preset.name;
    EXPECT_EQ(full.norm_topk_prob, small.norm_topk_prob) << preset.name;
    EXPECT_EQ(full.route_scale, small.route_scale) << preset.name;
    EXPECT_EQ(full.n_shared_experts, small.n_shared_experts) << preset.name;
    EXPECT_EQ(full.expert_activation, small.expert_activation) << preset.name;
    EXPECT_EQ(full.swiglu_limit > 0.0, small.swiglu_limit > 0.0) << preset.name;
    EXPECT_EQ(full.has_correction_bias(), small.has_correction_bias()) << preset.name;
    EXPECT_LE(small.dim, 32) << preset.name;
    // Rows of 16 bytes in bfloat16, which grouped kernels ask for.
    EXPECT_EQ(small.dim % 8, 0) << preset.name;
    EXPECT_EQ(small.moe_inter_dim % 8, 0) << preset.name;
  }
}

// Routed, shared and latent parameters of one layer, against the models' published totals: what all MoE
// layers hold together must be most of the total and no more than it.
TEST(Presets, WidthsFitThePublishedSizes) {
  const struct {
    const char* name;
    double layers, billions;
  } models[] = {{"mixtral_8x7b", 32, 46.7}, {"qwen2_moe", 28, 57.4},  {"qwen3_30b", 48, 30.5},
                {"deepseek_v3", 58, 671},   {"deepseek_v4", 43, 284}, {"moonlight", 26, 16},
                {"gpt_oss_120b", 36, 117},  {"olmoe", 16, 6.9},       {"glm_4_5", 89, 355},
                {"minimax_m3", 57, 428},    {"gemma_4", 30, 26},      {"nemotron_3_nano", 23, 31.6},
                {"kimi_k3", 92, 2800}};
  for (const auto& model : models) {
    const Signature layer = signature(Component::moe, to_json(find_preset(model.name).full),
                                      nlohmann::json::object(), {1}, false);
    double parameters = 0.0;
    for (const TensorSpec& tensor : layer.inputs)
      if (tensor.name.starts_with("params/")) parameters += static_cast<double>(element_count(tensor.shape));
    EXPECT_LT(parameters * model.layers, model.billions * 1e9) << model.name;
    EXPECT_GT(parameters * model.layers, model.billions * 0.85e9) << model.name;
  }
}

TEST(Presets, UnknownNamesListTheKnown) {
  try {
    find_preset("gpt5");
    FAIL();
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("unknown preset 'gpt5': want one of mixtral_8x7b"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace moeref
