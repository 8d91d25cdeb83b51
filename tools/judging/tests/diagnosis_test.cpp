// Ports that follow another rule than the case's are told which one; a port that is wrong is told nothing.
#include "tools/judging/diagnosis.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "moeref/golden_file.hpp"
#include "moeref/reference.hpp"

namespace moeref {
namespace {

Call case_of(const std::string& name) {
  return read_golden(std::filesystem::path(MOEREF_GOLDEN) / "cases" / (name + ".h5")).call;
}

/// What an honest port gives that computes the call under another config or other options.
NamedTensors results_under(Call call, const nlohmann::json& config, const nlohmann::json& options = {}) {
  if (!config.is_null()) call.config.update(config);
  if (!options.is_null()) call.options.update(options);
  return CpuReference().run(call);
}

std::string followed(const std::string& name, const nlohmann::json& config,
                     const nlohmann::json& options = {}) {
  const Call call = case_of(name);
  return convention_followed(call, results_under(call, config, options), {});
}

TEST(Diagnosis, NamesTheRule) {
  EXPECT_EQ(followed("experts__bf16_swiglu", {{"apply_router_weight_after_down", true}}),
            "apply_router_weight_after_down = true");
  EXPECT_EQ(followed("gate__sigmoid_groups_negative", {{"discarded_groups", "minus_infinity"}}),
            "discarded_groups = minus_infinity");
  EXPECT_EQ(followed("gate__top1_sigmoid_norm", {{"norm_at_top1", "weights_and_scores"}}),
            "norm_at_top1 = weights_and_scores");
  EXPECT_EQ(followed("gate__underflowing_sigmoid", {{"norm_eps", 1e-15}}), "norm_eps = 1e-15");
}

TEST(Diagnosis, NamesRulesOfSlotsExpertsAndLosses) {
  EXPECT_EQ(followed("experts__swiglu", {{"router_weight_on_input", true}}), "router_weight_on_input = true");
  EXPECT_EQ(followed("experts__geglu", {{"expert_activation", "geglu_erf"}}),
            "expert_activation = geglu_erf");
  EXPECT_EQ(followed("experts__swiglu_limit", {{"clamp_after_activation", true}}),
            "clamp_after_activation = true");
  EXPECT_EQ(followed("aux_loss__plain", {{"aux_loss_factor", "experts"}}), "aux_loss_factor = experts");
  EXPECT_EQ(followed("aux_loss__plain", {{"aux_loss_counts", "first_choice"}}),
            "aux_loss_counts = first_choice");
  EXPECT_EQ(followed("bias_update__sigmoid", {{"centred_bias_update", true}}), "centred_bias_update = true");
  EXPECT_EQ(followed("gate__sigmoid_bias", {{"selection_scores", "logits"}}), "selection_scores = logits");
  EXPECT_EQ(followed("gate__sinkhorn", {{"selection_scores", "by_score_func"}}),
            "selection_scores = by_score_func");
  EXPECT_EQ(followed("gate__always_selected", {{"n_always_selected", 0}}), "n_always_selected = 0");
  EXPECT_EQ(followed("moe__kimi_k3", {{"latent_norm", "after_fc1"}}), "latent_norm = after_fc1");
}

TEST(Diagnosis, NamesTheLossThatIsMissing) {
  EXPECT_EQ(followed("gate__three_losses", {{"batch_loss_coeff", 0.0}}), "batch_loss_coeff = 0");
  EXPECT_EQ(followed("gate__three_losses", {{"aux_loss_coeff", 0.0}}), "aux_loss_coeff = 0");
  const Call layer = case_of("moe__global_loss_context_parallel");
  Call silent = layer;
  silent.config["global_loss_coeff"] = 0.0;
  silent.tensors.erase("inputs/accumulated_expert_load");
  EXPECT_EQ(convention_followed(layer, CpuReference().run(silent), {}), "global_loss_coeff = 0");
  const Call call = case_of("gate__three_losses");
  Call alone = call;
  Tensor& loads = alone.tensors.at("inputs/accumulated_expert_load");
  loads = Tensor(loads.dtype(), loads.shape());
  EXPECT_EQ(convention_followed(call, CpuReference().run(alone), {}),
            "no earlier loads: this micro-batch's alone count");
}

TEST(Diagnosis, NamesWhichSlotsAreDropped) {
  EXPECT_EQ(followed("moe__capacity_by_weight", {{"capacity_order", "choice"}}), "capacity_order = choice");
  EXPECT_EQ(followed("gate__capacity_by_choice", {{"norm_after_dropping", false}}),
            "norm_after_dropping = false");
}

TEST(Diagnosis, NamesHowRowsAreQuantised) {
  EXPECT_EQ(followed("experts__mxfp8", {{"activation_format", "mxfp8"}}), "activation_format = mxfp8");
  Call quantising = case_of("experts__bf16_fp8_block128");
  const NamedTensors results = CpuReference().run(quantising);
  quantising.config["activation_format"] = "fp8_e4m3_group128";
  EXPECT_EQ(convention_followed(quantising, results, {}), "activation_format = none");
}

/// Sums of tensor cores are off by more than float32 sums can be, and by less than these can.
TEST(Diagnosis, NamesTheAccumulator) {
  Call call = case_of("experts__fp8_block128_by_group128");
  NamedTensors results = CpuReference().run(call);
  call.config["accumulator"] = "e8m13_promoted128";
  const BoundedTensor wide = evaluate(call).results.at("outputs/y");
  Tensor& y = results.at("outputs/y");
  for (std::int64_t i = 0; i < y.size(); ++i) y.set(i, y[i] + 0.75 * wide.bound[static_cast<std::size_t>(i)]);
  std::erase_if(results, [](const auto& named) { return named.first.starts_with("stages/"); });
  EXPECT_EQ(judge(call, results).verdict, Verdict::pass);
  call.config.erase("accumulator");
  EXPECT_EQ(judge(call, results).verdict, Verdict::fail);
  EXPECT_EQ(convention_followed(call, results, {}), "accumulator = e8m13_promoted128");
}

TEST(Diagnosis, NamesTheRuleOfTheBias) {
  EXPECT_EQ(followed("bias_update__quantile", {{"bias_update_rule", "sign_of_load"}}),
            "bias_update_rule = sign_of_load");
  EXPECT_EQ(followed("bias_update__centred", {{"bias_update_rule", "quantile"}}),
            "bias_update_rule = quantile");
}

TEST(Diagnosis, NamesTheComputeDtype) {
  EXPECT_EQ(followed("experts__compute_dtype", {{"expert_compute_dtype", nullptr}}),
            "expert_compute_dtype = null");
  EXPECT_EQ(followed("experts__situ", {{"expert_compute_dtype", "bfloat16"}}),
            "expert_compute_dtype = bfloat16");
}

TEST(Diagnosis, NamesTwoRulesTogether) {
  EXPECT_EQ(followed("gate__sigmoid_groups_negative",
                     {{"discarded_groups", "minus_infinity"}, {"norm_topk_prob", true}}),
            "discarded_groups = minus_infinity and norm_topk_prob = true");
}

TEST(Diagnosis, NamesNoneWhereResultsAreWrong) {
  const Call call = case_of("gate__sigmoid_groups_negative");
  NamedTensors results = CpuReference().run(call);
  Tensor& w = results.at("outputs/weights");
  w.set(3, w[3] * 1.5);
  EXPECT_EQ(convention_followed(call, results, {}), "");
}

}  // namespace
}  // namespace moeref
