// config.hpp: defaults, round trips through JSON, and every error message.
#include "moeref/config.hpp"

#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "moeref/error.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

using nlohmann::json;

json grouped_layer() {
  return {{"n_routed_experts", 8},
          {"n_shared_experts", 0},
          {"n_activated_experts", 2},
          {"n_expert_groups", 4},
          {"n_limited_groups", 2},
          {"train_gate", true},
          {"gate_bias_update_factor", 0.0},
          {"aux_loss_coeff", 0.0},
          {"score_func", "sigmoid"},
          {"route_scale", 1.0},
          {"dim", 16},
          {"inter_dim", 32},
          {"moe_inter_dim", 12},
          {"norm_topk_prob", false}};
}

json with(json base, const json& changes) {
  base.merge_patch(changes);
  return base;
}

TEST(MoEConfigTest, DefaultsAreTheDocumentedOnes) {
  const MoEConfig c = parse_moe_config(grouped_layer());
  EXPECT_FALSE(c.router_bias);
  EXPECT_FALSE(c.expert_bias);
  EXPECT_FALSE(c.softmax_before_topk);
  EXPECT_FALSE(c.apply_router_weight_after_down);
  EXPECT_FALSE(c.router_weights_fp32);
  EXPECT_FALSE(c.router_weight_uses_score_correction_bias);
  EXPECT_FALSE(c.shared_expert_gate);
  EXPECT_FALSE(c.force_e_score_correction_bias);
  EXPECT_FALSE(c.enable_routing_replay);
  EXPECT_EQ(c.expert_activation, ActivationKind::swiglu);
  EXPECT_EQ(c.shared_expert_activation, ActivationKind::swiglu);
  EXPECT_EQ(c.activation_alpha, 1.702);
  EXPECT_EQ(c.activation_limit, 7.0);
  EXPECT_EQ(c.swiglu_limit, 0.0);
  EXPECT_EQ(c.dtype, DType::bfloat16);
  EXPECT_FALSE(c.gate_dtype.has_value());
  EXPECT_FALSE(c.shared_expert_inter_dim.has_value());
  EXPECT_FALSE(c.moe_latent_size.has_value());
}

TEST(MoEConfigTest, DerivedSizes) {
  MoEConfig c = parse_moe_config(grouped_layer());
  EXPECT_EQ(c.expert_dim(), 16);
  EXPECT_EQ(c.up_dim(), 24);
  EXPECT_EQ(c.shared_dim(), 0);
  EXPECT_FALSE(c.has_correction_bias());
  c = parse_moe_config(with(grouped_layer(), {{"moe_latent_size", 4},
                                              {"expert_activation", "relu2"},
                                              {"n_shared_experts", 3},
                                              {"gate_bias_update_factor", 0.01}}));
  EXPECT_EQ(c.expert_dim(), 4);
  EXPECT_EQ(c.up_dim(), 12);
  EXPECT_EQ(c.shared_dim(), 36);
  EXPECT_TRUE(c.has_correction_bias());
  c = parse_moe_config(with(
      grouped_layer(),
      {{"n_shared_experts", 3}, {"shared_expert_inter_dim", 5}, {"force_e_score_correction_bias", true}}));
  EXPECT_EQ(c.shared_dim(), 15);
  EXPECT_TRUE(c.has_correction_bias());
}

TEST(MoEConfigTest, JsonKeepsTheFieldsThatDifferFromTheirDefault) {
  EXPECT_EQ(to_json(parse_moe_config(grouped_layer())), grouped_layer());
  const json full = with(grouped_layer(), {{"router_bias", true},
                                           {"expert_bias", true},
                                           {"expert_activation", "geglu"},
                                           {"apply_router_weight_after_down", true},
                                           {"activation_alpha", 1.5},
                                           {"activation_limit", 5.0},
                                           {"swiglu_limit", 2.5},
                                           {"softmax_before_topk", true},
                                           {"router_weights_fp32", true},
                                           {"router_weight_uses_score_correction_bias", true},
                                           {"dtype", "float16"},
                                           {"gate_dtype", "float32"},
                                           {"shared_expert_gate", true},
                                           {"shared_expert_inter_dim", 20},
                                           {"shared_expert_activation", "relu2"},
                                           {"force_e_score_correction_bias", true},
                                           {"moe_latent_size", 4},
                                           {"enable_routing_replay", true},
                                           {"norm_denominator", "max_of_sum_and_eps"},
                                           {"norm_eps", 1e-6},
                                           {"norm_at_top1", "scores"},
                                           {"group_score", "largest"},
                                           {"discarded_groups", "minus_infinity"},
                                           {"logit_scale", 0.5},
                                           {"logit_cap", 30.0},
                                           {"latent_norm", "after_fc1"},
                                           {"latent_norm_eps", 1e-6}});
  EXPECT_EQ(to_json(parse_moe_config(full)), full);
}

TEST(MoEConfigTest, TheGatesParametersHaveTheLayersTypeUnlessToldOtherwise) {
  EXPECT_EQ(parse_moe_config(grouped_layer()).gate_param_dtype(), DType::bfloat16);
  EXPECT_EQ(parse_moe_config(with(grouped_layer(), {{"gate_dtype", "float32"}})).gate_param_dtype(),
            DType::float32);
}

TEST(MoEConfigTest, NullMeansAbsent) {
  json config = grouped_layer();
  config["gate_dtype"] = nullptr;
  config["shared_expert_inter_dim"] = nullptr;
  config["moe_latent_size"] = nullptr;
  EXPECT_EQ(to_json(parse_moe_config(config)), grouped_layer());
}

TEST(MoEConfigTest, DTypesMayCarryPyTorchsPrefix) {
  EXPECT_EQ(parse_moe_config(with(grouped_layer(), {{"dtype", "torch.float16"}})).dtype, DType::float16);
}

TEST(MoEConfigTest, EveryScoreFunctionAndActivationHasItsName) {
  for (const char* text : {"softmax", "sigmoid", "sigmoid_with_bias", "softmax_with_bias", "sqrtsoftplus"})
    EXPECT_EQ(name(parse_moe_config(with(grouped_layer(), {{"score_func", text}})).score_func), text);
  for (const char* text : {"swiglu", "swigluoai", "quick_geglu", "geglu", "relu2"})
    EXPECT_EQ(name(parse_moe_config(with(grouped_layer(), {{"expert_activation", text}})).expert_activation),
              text);
}

TEST(MoEConfigTest, EachRequiredFieldIsNamedWhenItIsMissing) {
  const json good = grouped_layer();
  for (const auto& [field, value] : good.items()) {
    json config = good;
    config.erase(field);
    EXPECT_EQ(error_of([&] { parse_moe_config(config); }), "the config lacks the field '" + field + "'");
  }
}

/// What a change to a good config is answered with.
struct Refusal {
  json change;
  std::string message;
};
void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.change.dump(); }

class MoEConfigRefusal : public testing::TestWithParam<Refusal> {};
TEST_P(MoEConfigRefusal, NamesFieldValueAndWhatWouldBeRight) {
  EXPECT_EQ(error_of([] { parse_moe_config(with(grouped_layer(), GetParam().change)); }), GetParam().message);
}

Refusal field(const char* name, const json& value, const std::string& want) {
  return {{{name, value}}, "config field '" + std::string(name) + "' is " + value.dump() + ": " + want};
}

INSTANTIATE_TEST_SUITE_P(
    WrongTypes, MoEConfigRefusal,
    testing::Values(
        field("dim", "16", "want an integer"), field("dim", 16.5, "want an integer"),
        field("dim", true, "want an integer"),
        field("dim", 0xffffffffffffffffu, "want an integer below 2^63"),
        field("moe_latent_size", "wide", "want an integer"), field("train_gate", 1, "want true or false"),
        field("norm_topk_prob", "yes", "want true or false"),
        field("route_scale", "2", "want a finite number"), field("route_scale", true, "want a finite number"),
        field("dtype", 16, "want a dtype name"),
        field("dtype", "int64", "want float64, float32, bfloat16 or float16"),
        field("gate_dtype", "bool", "want float64, float32, bfloat16 or float16"),
        field("expert_compute_dtype", "bool", "want float64, float32, bfloat16 or float16"),
        field("score_func", 3,
              "want one of softmax sigmoid sigmoid_with_bias softmax_with_bias sqrtsoftplus"),
        field("score_func", "Softmax",
              "want one of softmax sigmoid sigmoid_with_bias softmax_with_bias sqrtsoftplus"),
        field("expert_activation", "gelu_new",
              "want one of swiglu swigluoai quick_geglu geglu relu2 geglu_erf silu gelu gelu_tanh relu situ"),
        Refusal{{{"dtype", "fp8"}},
                "unknown dtype 'fp8': want float64, float32, bfloat16, float16, int64, bool or uint8"},
        Refusal{{{"n_expert", 8}}, "the config has an unknown field 'n_expert'"},
        Refusal{{{"", 8}}, "the config has an unknown field ''"}));

INSTANTIATE_TEST_SUITE_P(
    ImpossibleLayers, MoEConfigRefusal,
    testing::Values(
        field("n_routed_experts", 0, "want a size from 1 to 2^20"),
        field("dim", 0, "want a size from 1 to 2^20"), field("dim", -4, "want a size from 1 to 2^20"),
        field("dim", (1 << 20) + 1, "want a size from 1 to 2^20"),
        field("inter_dim", 0, "want a size from 1 to 2^20"),
        field("moe_inter_dim", 0, "want a size from 1 to 2^20"),
        field("n_expert_groups", 0, "want a size from 1 to 2^20"),
        field("n_limited_groups", 0, "want a size from 1 to 2^20"),
        field("shared_expert_inter_dim", 0, "want a size from 1 to 2^20"),
        field("moe_latent_size", 0, "want a size from 1 to 2^20"),
        field("expert_compute_dtype", "float32", "want null, or a type whose numbers dtype bfloat16 holds"),
        field("expert_compute_dtype", "float16", "want null, or a type whose numbers dtype bfloat16 holds"),
        field("bias_update_rule", "quantile",
              "want more experts than n_activated_experts, no groups, and another score_func than softmax, "
              "whose "
              "selection has no bias"),
        field("n_shared_experts", -1, "want 0 or more"),
        field("n_activated_experts", 0, "want 1 to n_routed_experts = 8"),
        field("n_activated_experts", 9, "want 1 to n_routed_experts = 8"),
        field("n_activated_experts", 5,
              "want at most n_limited_groups * n_routed_experts / n_expert_groups = 4"),
        field("n_expert_groups", 3, "want a divisor of n_routed_experts = 8"),
        field("n_limited_groups", 5, "want 1 to n_expert_groups = 4"),
        field("gate_bias_update_factor", -0.5, "want 0 or more"),
        field("aux_loss_coeff", -0.5, "want 0 or more"), field("batch_loss_coeff", -0.5, "want 0 or more"),
        field("global_loss_coeff", -0.5, "want 0 or more"),
        field("swiglu_limit", -1.0, "want 0 (off) or more"),
        field("shared_expert_activation", "geglu", "want swiglu, relu2 or situ"),
        field("norm_eps", -1e-9, "want 0 to 1"), field("norm_eps", 2.0, "want 0 to 1"),
        field("norm_denominator", "sum", "want one of sum_plus_eps max_of_sum_and_eps"),
        field("norm_at_top1", true, "want one of none scores weights_and_scores"),
        field("latent_norm", "before_fc2", "want none without moe_latent_size"),
        field("latent_norm", true, "want one of none before_fc2 after_fc1"),
        field("latent_norm_eps", 0.0, "want more than 0"), field("logit_cap", -1.0, "want 0 (off) or more"),
        field("logit_scale", 0.0, "want more than 0"),
        Refusal{
            {{"group_score", "largest"}, {"score_func", "softmax"}},
            "config field 'group_score' is \"largest\": want by_score_func with score_func softmax, which "
            "selects logits; softmax_with_bias selects scores"},
        Refusal{
            {{"group_score", "top2_sum"}, {"score_func", "sqrtsoftplus"}},
            "config field 'group_score' is \"top2_sum\": want discarded_groups zero or minus_infinity with "
            "score_func sqrtsoftplus, which has no rule for them"},
        Refusal{{{"group_score", "topk_over_g_sum"}, {"n_activated_experts", 1}},
                "config field 'group_score' is \"topk_over_g_sum\": want n_activated_experts of "
                "n_limited_groups = 2 or more"},
        Refusal{{{"gate_bias_update_factor", 0.5}, {"train_gate", false}},
                "config field 'gate_bias_update_factor' is 0.5: a bias update needs train_gate = true"},
        Refusal{{{"expert_activation", "quick_geglu"}, {"activation_limit", -1.0}},
                "config field 'activation_limit' is -1.0: want 0 or more with quick_geglu, whose clamps are "
                "always on"},
        Refusal{{{"n_expert_groups", 8}, {"n_limited_groups", 4}, {"score_func", "sigmoid_with_bias"}},
                "config field 'n_expert_groups' is 8: want groups of two experts or more, since a group's "
                "score is the "
                "sum of its two largest"},
        Refusal{{{"n_expert_groups", 8}, {"n_limited_groups", 4}, {"force_e_score_correction_bias", true}},
                "config field 'n_expert_groups' is 8: want groups of two experts or more, since a group's "
                "score is the "
                "sum of its two largest"}));

TEST(MoEConfigTest, GroupsAreNotCheckedWhereTheScoreFunctionIgnoresThem) {
  for (const char* score_func : {"softmax", "sqrtsoftplus"})
    EXPECT_NO_THROW(
        parse_moe_config(with(grouped_layer(), {{"score_func", score_func}, {"n_activated_experts", 8}})));
  // Groups of one need no second largest score where the group's score is its largest.
  EXPECT_NO_THROW(parse_moe_config(with(grouped_layer(), {{"n_expert_groups", 8}})));
}

TEST(MoEConfigTest, OnlyAnObjectIsAConfig) {
  EXPECT_EQ(error_of([] {
              parse_moe_config(json::array({1, 2}));
            }),
            "the config is not a JSON object: [1,2]");
  EXPECT_EQ(error_of([] { parse_moe_config(nullptr); }), "the config is not a JSON object: null");
}

TEST(MLPConfigTest, DefaultsAndRoundTrip) {
  const json plain{{"dim", 16}, {"inter_dim", 24}};
  const MLPConfig c = parse_mlp_config(plain);
  EXPECT_EQ(c.dtype, DType::float32);
  EXPECT_EQ(c.activation, ActivationKind::swiglu);
  EXPECT_FALSE(c.bias);
  EXPECT_EQ(c.swiglu_limit, 0.0);
  EXPECT_EQ(to_json(c), plain);
  const json full =
      with(plain, {{"dtype", "bfloat16"}, {"activation", "relu2"}, {"bias", true}, {"swiglu_limit", 1.5}});
  EXPECT_EQ(to_json(parse_mlp_config(full)), full);
  const json situ = with(plain, {{"activation", "situ"}, {"situ_beta", 1.5}, {"situ_linear_beta", 0.0}});
  EXPECT_EQ(to_json(parse_mlp_config(situ)), situ);
}

class MLPConfigRefusal : public testing::TestWithParam<Refusal> {};
TEST_P(MLPConfigRefusal, NamesFieldValueAndWhatWouldBeRight) {
  EXPECT_EQ(error_of([] {
              parse_mlp_config(with({{"dim", 16}, {"inter_dim", 24}}, GetParam().change));
            }),
            GetParam().message);
}
INSTANTIATE_TEST_SUITE_P(
    All, MLPConfigRefusal,
    testing::Values(
        field("dim", 0, "want a size from 1 to 2^20"), field("inter_dim", 0, "want a size from 1 to 2^20"),
        field("activation", "geglu", "want swiglu, relu2 or situ"),
        field("activation", "gelu", "want swiglu, relu2 or situ"),
        field("activation", "gelu_new",
              "want one of swiglu swigluoai quick_geglu geglu relu2 geglu_erf silu gelu gelu_tanh relu situ"),
        field("swiglu_limit", -0.5, "want 0 (off) or more"), field("bias", 0, "want true or false"),
        Refusal{{{"dim", nullptr}}, "the config lacks the field 'dim'"},
        Refusal{{{"moe_inter_dim", 8}}, "the config has an unknown field 'moe_inter_dim'"}));

TEST(CallOptionsTest, DefaultsAndEveryField) {
  const CallOptions none = parse_call_options(json::object());
  EXPECT_FALSE(none.gate_precision.has_value());
  EXPECT_TRUE(none.training);
  EXPECT_FALSE(none.fake_balanced_gate);
  EXPECT_EQ(none.fake_gate_noise, 0.0);
  EXPECT_EQ(none.aux_loss_backward_scale, 1.0);
  EXPECT_EQ(none.steps, 1);
  EXPECT_EQ(none.init_std, 0.02);
  EXPECT_EQ(none.parallel.size(), 1);

  const CallOptions all = parse_call_options({{"gate_precision", "float32"},
                                              {"training", false},
                                              {"fake_balanced_gate", true},
                                              {"fake_gate_noise", 0.25},
                                              {"skip_first_n_experts", 2},
                                              {"aux_loss_backward_scale", 4.0},
                                              {"steps", 3},
                                              {"micro_batches", 2},
                                              {"init_std", 0.5},
                                              {"fill_before", 7.0},
                                              {"torch_cpu_seed", 12},
                                              {"seed", 13},
                                              {"ep_size", 2},
                                              {"tokens_per_rank", {5, 0}},
                                              {"exchange", "all_to_all"},
                                              {"experts_backend", "grouped"}});
  EXPECT_EQ(all.gate_precision, DType::float32);
  EXPECT_FALSE(all.training);
  EXPECT_TRUE(all.fake_balanced_gate);
  EXPECT_EQ(all.fake_gate_noise, 0.25);
  EXPECT_EQ(all.skip_first_n_experts, 2);
  EXPECT_EQ(all.aux_loss_backward_scale, 4.0);
  EXPECT_EQ(all.steps, 3);
  EXPECT_EQ(all.micro_batches, 2);
  EXPECT_EQ(all.init_std, 0.5);
  EXPECT_EQ(all.fill_before, 7.0);
  EXPECT_EQ(all.torch_cpu_seed, 12u);
  EXPECT_EQ(all.seed, 13u);
  EXPECT_EQ(all.parallel.ep_size, 2);
  EXPECT_EQ(all.parallel.tokens_per_rank, (std::vector<std::int64_t>{5, 0}));
  EXPECT_EQ(all.parallel.exchange, "all_to_all");
  EXPECT_EQ(parse_call_options({{"noise", 0.5}}).fake_gate_noise, 0.5);
  EXPECT_FALSE(parse_call_options({{"gate_precision", nullptr}}).gate_precision.has_value());
  EXPECT_EQ(parse_call_options({{"cp_size", 3}}).parallel.size(), 3);
  EXPECT_EQ(parse_call_options({{"dp_size", 4}}).parallel.size(), 4);
}

class CallOptionsRefusal : public testing::TestWithParam<Refusal> {};
TEST_P(CallOptionsRefusal, NamesFieldValueAndWhatWouldBeRight) {
  EXPECT_EQ(error_of([] { parse_call_options(GetParam().change); }), GetParam().message);
}
INSTANTIATE_TEST_SUITE_P(
    All, CallOptionsRefusal,
    testing::Values(
        field("noise", 1.5, "want 0 to 1"), field("noise", -0.5, "want 0 to 1"),
        field("skip_first_n_experts", -1, "want 0 or more"), field("steps", 0, "want 1 to 10000"),
        field("steps", 10001, "want 1 to 10000"), field("micro_batches", 0, "want 1 to 10000"),
        field("init_std", -0.5, "want 0 or more"), field("seed", -1, "want a non-negative integer"),
        field("torch_cpu_seed", 1.5, "want a non-negative integer"),
        field("gate_precision", "bool", "want float64, float32, bfloat16 or float16"),
        field("training", 0, "want true or false"), field("ep_size", 0, "want 1 to 1024"),
        field("cp_size", 0, "want 1 to 1024"), field("dp_size", 1025, "want 1 to 1024"),
        field("tokens_per_rank", {1, 2}, "want one count per rank"),
        field("tokens_per_rank", {-1}, "want counts of 0 or more"),
        field("tokens_per_rank", 4, "want a list of integers"),
        field("exchange", "ring", "want all_gather or all_to_all"), field("exchange", 1, "want a text"),
        Refusal{{{"ep_size", 2}, {"cp_size", 2}},
                "config field 'ep_size' is 2: want one of ep_size, cp_size and dp_size above 1 at most"},
        Refusal{{{"shuffle", true}}, "the call options have an unknown field 'shuffle'"},
        Refusal{json::array(), "the call options are not a JSON object: []"}));

}  // namespace
}  // namespace moeref
