// moe.hpp: how the parts are put together, and gradients of the whole layer by central differences.
#include "reference_cpu/components/moe.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/signature.hpp"
#include "reference_cpu/tests/gradient_check.hpp"
#include "reference_cpu/tests/small_call.hpp"
#include "reference_cpu/tests/test_values.hpp"

namespace moeref {
namespace {

/// One expert, x^2 through relu2, routed with sigmoid(x).
MoEConfig one_expert() {
  MoEConfig c = small_config(1, 1);
  c.score_func = ScoreFunc::sigmoid;
  c.expert_activation = c.shared_expert_activation = ActivationKind::relu2;
  return c;
}
NamedTensors one_expert_tensors(Tensor x) {
  return {{"inputs/x", std::move(x)},
          {"params/gate.weight", tensor({1, 1}, {1})},
          {"params/experts.gate_and_up_projs", tensor({1, 1, 1}, {1})},
          {"params/experts.down_projs", tensor({1, 1, 1}, {1})}};
}
std::vector<double> y(const MoEConfig& c, NamedTensors t) {
  return values_of(evaluate(small_call(Component::moe, c, std::move(t))), "outputs/y");
}

TEST(MoETest, RoutesAndKeepsTheShapeOfX) {
  const Evaluation e =
      evaluate(small_call(Component::moe, one_expert(), one_expert_tensors(tensor({1, 2, 1}, {2, 3}))));
  EXPECT_EQ(e.results.at("outputs/y").shape, (Shape{1, 2, 1}));
  EXPECT_NEAR(values_of(e, "outputs/y")[0], 4 * sigma(2), 1e-14);
  EXPECT_NEAR(values_of(e, "outputs/y")[1], 9 * sigma(3), 1e-14);
  EXPECT_EQ(values_of(e, "outputs/expert_load"), (std::vector<double>{2}));
}

TEST(MoETest, SharedExpertsSeeEveryTokenPaddingToo) {
  MoEConfig c = one_expert();
  c.n_shared_experts = 2;
  NamedTensors t = one_expert_tensors(tensor({2, 1}, {2, 3}));
  t["inputs/padding_mask"] = flags({false, true});
  t["params/shared_experts.up_proj.weight"] = tensor({2, 1}, {1, 2});
  t["params/shared_experts.down_proj.weight"] = tensor({1, 2}, {1, 1});
  const auto plain = y(c, t);
  EXPECT_NEAR(plain[0], 4 * sigma(2) + 4 + 16, 1e-13);
  EXPECT_EQ(plain[1], 9 + 36);
  c.shared_expert_gate = true;
  t["params/shared_expert_gate.weight"] = tensor({1, 1}, {-.5});
  EXPECT_NEAR(y(c, t)[0], 4 * sigma(2) + 20 * sigma(-1), 1e-13);
  EXPECT_NEAR(y(c, t)[1], 45 * sigma(-1.5), 1e-13);
}

TEST(MoETest, TheLatentProjectionsStandAroundTheRoutedExpertsOnly) {
  MoEConfig c = one_expert();
  c.dim = 2;
  c.moe_latent_size = 1;
  c.expert_bias = true;
  NamedTensors t = one_expert_tensors(tensor({2, 2}, {1, 2, 3, 4}));
  t["inputs/padding_mask"] = flags({false, true});
  t["params/gate.weight"] = tensor({1, 2}, {1, 0});
  t["params/fc1_latent_proj.weight"] = tensor({1, 2}, {1, 1});
  t["params/fc1_latent_proj.bias"] = tensor({1}, {-1});
  t["params/fc2_latent_proj.weight"] = tensor({2, 1}, {10, 100});
  t["params/fc2_latent_proj.bias"] = tensor({2}, {5, 6});
  t["params/experts.gate_up_proj_bias"] = tensor({1, 1}, {1});
  t["params/experts.down_proj_bias"] = tensor({1, 1}, {1});
  const auto out = y(c, t);  // latent 2, h 3, o (9 + 1) sigma(1)
  EXPECT_NEAR(out[0], 100 * sigma(1) + 5, 1e-12);
  EXPECT_NEAR(out[1], 1000 * sigma(1) + 6, 1e-12);
  EXPECT_EQ(out[2], 5);  // padding gets the bias of fc2
  EXPECT_EQ(out[3], 6);
}

TEST(MoETest, LatentRowsAreNormalisedAtEitherPlace) {
  MoEConfig c = one_expert();
  c.dim = c.moe_inter_dim = 2;
  c.moe_latent_size = 2;
  c.latent_norm_eps = 6.0;
  NamedTensors t{{"inputs/x", tensor({2, 2}, {2, 4, 3, 3})},
                 {"inputs/padding_mask", flags({false, true})},
                 {"params/gate.weight", tensor({1, 2}, {0, 0})},  // weights of 1/2
                 {"params/fc1_latent_proj.weight", tensor({2, 2}, {1, 0, 0, 1})},
                 {"params/fc2_latent_proj.weight", tensor({2, 2}, {10, 0, 0, 100})},
                 {"params/latent_norm.weight", tensor({2}, {1, 3})},
                 {"params/experts.gate_and_up_projs", tensor({1, 2, 2}, {1, 0, 0, 1})},
                 {"params/experts.down_projs", tensor({1, 2, 2}, {1, 0, 0, 1})}};
  c.latent_norm = LatentNorm::after_fc1;
  auto out = y(c, t);  // (2, 4) / 4 times (1, 3), squared, halved
  EXPECT_NEAR(out[0], 10 * 0.125, 1e-13);
  EXPECT_NEAR(out[1], 100 * 4.5, 1e-12);
  EXPECT_EQ(out[2], 0.0);
  c.latent_norm = LatentNorm::before_fc2;
  out = y(c, t);  // (4, 16) / 2, then the norm
  const double root = std::sqrt((4.0 + 64.0) / 2 + 6.0);
  EXPECT_NEAR(out[0], 10 * 2 / root, 1e-13);
  EXPECT_NEAR(out[1], 100 * 3 * 8 / root, 1e-12);
  EXPECT_EQ(out[2], 0.0);  // padding stays 0
  const Evaluation init = evaluate(small_call(Component::init, c, {}, false, {{"seed", 1}}));
  EXPECT_EQ(values_of(init, "outputs/latent_norm.weight"), (std::vector<double>{1, 1}));
}

TEST(MoETest, ReplayAndFakeGate) {
  MoEConfig c = small_config(2, 1);
  c.expert_activation = ActivationKind::relu2;
  NamedTensors t{{"inputs/x", tensor({2, 1}, {2, 3})},
                 {"params/gate.weight", tensor({2, 1}, {1, -1})},
                 {"params/experts.gate_and_up_projs", tensor({2, 1, 1}, {1, 10})},
                 {"params/experts.down_projs", tensor({2, 1, 1}, {1, 1})}};
  EXPECT_EQ(y(c, t), (std::vector<double>{4, 9}));
  t["inputs/replay_indices"] = ids({2, 1}, {1, 0});
  EXPECT_EQ(y(c, t), (std::vector<double>{400, 9}));
  t.erase("inputs/replay_indices");
  t.erase("params/gate.weight");
  const Evaluation fake = evaluate(small_call(Component::moe, c, t, false, {{"fake_balanced_gate", true}}));
  EXPECT_EQ(values_of(fake, "outputs/y"), (std::vector<double>{4, 900}));  // tokens in turn
  EXPECT_FALSE(fake.results.contains("outputs/aux_loss"));
}

TEST(MoETest, PaddingGivesNoGradientThroughTheRoutedExperts) {
  NamedTensors t = one_expert_tensors(tensor({2, 1}, {2, 3}));
  t["inputs/padding_mask"] = flags({false, true});
  t["cotangents/y"] = tensor({2, 1}, {1, 1});
  const Evaluation e = evaluate(small_call(Component::moe, one_expert(), t, true));
  // y = x^2 sigma(x).
  EXPECT_NEAR(values_of(e, "grads/x")[0], 4 * sigma(2) + 4 * sigma(2) * sigma(-2), 1e-14);
  EXPECT_EQ(values_of(e, "grads/x")[1], 0.0);
  EXPECT_NEAR(values_of(e, "grads/gate.weight")[0], 4 * 2 * sigma(2) * sigma(-2), 1e-14);
}

/// Every option that changes the layer's graph, on numbers drawn from a smooth function.
TEST(MoETest, GradientsAreCentralDifferences) {
  for (int variant = 0; variant < 12; ++variant) {
    MoEConfig c = small_config(4, 2, 3, 2);
    c.score_func = variant % 2 ? ScoreFunc::softmax : ScoreFunc::sigmoid;
    c.norm_topk_prob = variant % 3 == 0;
    c.aux_loss_coeff = 0.4;
    c.expert_activation = variant % 2 ? ActivationKind::geglu : ActivationKind::swiglu;
    c.expert_bias = variant & 1;
    c.apply_router_weight_after_down = variant & 2;
    if (variant & 4) c.moe_latent_size = 2;
    c.n_shared_experts = variant == 3 ? 0 : 1;
    c.shared_expert_gate = variant != 5;
    c.shared_expert_activation = variant == 6   ? ActivationKind::relu2
                                 : variant == 9 ? ActivationKind::situ
                                                : ActivationKind::swiglu;
    if (variant >= 8) {
      c.moe_latent_size = 3;
      c.latent_norm = variant % 4 < 2 ? LatentNorm::before_fc2 : LatentNorm::after_fc1;
      c.latent_norm_eps = 0.05;
    }
    nlohmann::json options = nlohmann::json::object();
    if (variant == 2 || variant == 8 || variant == 10) options = {{"ep_size", 2}};
    Call call = small_call(Component::moe, c, {}, true, options);
    double phase = 0.37 * variant;
    for (const TensorSpec& spec : signature(Component::moe, call.config, call.options, {2, 2}, true).inputs) {
      if (!is_floating(spec.dtype)) continue;
      Tensor tensor(spec.dtype, spec.shape);
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, 0.9 * std::sin(phase += 1.37));
      call.tensors[spec.name] = std::move(tensor);
    }
    Tensor padding(DType::boolean, {2, 2});
    padding.set(3, 1.0);
    call.tensors["inputs/padding_mask"] = padding;
    SCOPED_TRACE("variant " + std::to_string(variant));
    expect_central_differences(call, 5e-7, 60);
  }
}

}  // namespace
}  // namespace moeref
