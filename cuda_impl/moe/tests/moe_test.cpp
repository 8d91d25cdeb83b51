// The whole layer against the reference: latent projections, shared experts and their gate, padding, the fake
// gate, replay, and the places of weights and biases.
#include "cuda_impl/adaptors/tests/judged_call.hpp"

namespace moeref::cuda::test {
namespace {

using nlohmann::json;

struct Setting {
  const char* dtype;
  ExpertsPath path;
  const char* name;
};
void PrintTo(const Setting& s, std::ostream* out) { *out << s.name; }

class MoE : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
  static json base() {
    return {{"case", "moe"},
            {"component", "moe"},
            {"tokens", {2, 12}},
            {"backward", true},
            {"config",
             {{"n_routed_experts", 8},
              {"n_shared_experts", 0},
              {"n_activated_experts", 2},
              {"n_expert_groups", 1},
              {"n_limited_groups", 1},
              {"train_gate", true},
              {"gate_bias_update_factor", 0.0},
              {"aux_loss_coeff", 0.0},
              {"score_func", "softmax"},
              {"route_scale", 1.0},
              {"dim", 16},
              {"inter_dim", 8},
              {"moe_inter_dim", 8},
              {"norm_topk_prob", false},
              {"dtype", GetParam().dtype}}},
            {"data", {{"mask", "random"}}}};
  }
  static void expect(const json& changes) { expect_agrees(with(base(), changes), {GetParam().path}); }
};
INSTANTIATE_TEST_SUITE_P(Settings, MoE,
                         testing::Values(Setting{"float32", ExpertsPath::automatic, "float32"},
                                         Setting{"float16", ExpertsPath::automatic, "float16"},
                                         Setting{"bfloat16", ExpertsPath::automatic, "bfloat16"},
                                         Setting{"bfloat16", ExpertsPath::portable, "bfloat16_portable"}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(MoE, Gates) {
  expect(json::object());
  expect({{"config", {{"norm_topk_prob", true}, {"softmax_before_topk", true}}}});
  expect({{"config",
           {{"score_func", "sigmoid"},
            {"route_scale", 2.5},
            {"norm_topk_prob", true},
            {"gate_bias_update_factor", 0.001}}},
          {"data", {{"correction_bias", {{"kind", "normal"}, {"scale", 0.3}}}}}});
  expect({{"config", {{"score_func", "sigmoid"}, {"n_expert_groups", 4}, {"n_limited_groups", 2}}}});
  expect({{"config", {{"router_bias", true}, {"aux_loss_coeff", 0.01}}}});
  expect({{"config", {{"train_gate", false}}}});
  expect({{"config", {{"router_weights_fp32", true}}}, {"call", {{"gate_precision", "float32"}}}});
}

TEST_P(MoE, SharedExperts) {
  for (const bool gate : {false, true})
    for (const bool bias : {false, true})
      for (const char* activation : {"swiglu", "relu2"})
        expect({{"config",
                 {{"n_shared_experts", 2},
                  {"shared_expert_gate", gate},
                  {"expert_bias", bias},
                  {"shared_expert_activation", activation},
                  {"shared_expert_inter_dim", 5},
                  {"swiglu_limit", 0.9}}}});
}

TEST_P(MoE, LatentProjections) {
  for (const bool bias : {false, true})
    for (const int latent : {8, 5})
      expect({{"config",
               {{"moe_latent_size", latent},
                {"expert_bias", bias},
                {"n_shared_experts", 1},
                {"shared_expert_gate", true}}}});
}

TEST_P(MoE, WeightAfterDown) {
  expect({{"config", {{"apply_router_weight_after_down", true}, {"expert_bias", true}}}});
}

TEST_P(MoE, ActivationsOfTheExperts) {
  for (const char* activation : {"swigluoai", "quick_geglu", "geglu", "relu2"})
    expect(
        {{"config", {{"expert_activation", activation}, {"expert_bias", true}, {"activation_limit", 1.5}}}});
}

TEST_P(MoE, TokensAndPadding) {
  for (const json& tokens : {json{1, 0}, json{1, 1}, json{3, 21}, json{1, 64}, json{5, 13}})
    for (const char* mask : {"absent", "all", "suffix"})
      expect({{"tokens", tokens}, {"config", {{"n_shared_experts", 1}}}, {"data", {{"mask", mask}}}});
}

TEST_P(MoE, OddWidths) {
  for (const auto& [dim, inter_dim] : std::vector<std::pair<int, int>>{{1, 1}, {7, 3}, {33, 65}})
    expect({{"config",
             {{"dim", dim},
              {"moe_inter_dim", inter_dim},
              {"n_shared_experts", 1},
              {"shared_expert_gate", true}}},
            {"data", {{"replay", "distinct"}}}});
}

TEST_P(MoE, ReplayAndTheFakeGate) {
  expect({{"data", {{"replay", "distinct"}}}});
  expect({{"call", {{"fake_balanced_gate", true}}}, {"config", {{"n_shared_experts", 1}}}});
  expect({{"call", {{"fake_balanced_gate", true}}}, {"config", {{"moe_latent_size", 8}}}});
}

}  // namespace
}  // namespace moeref::cuda::test
