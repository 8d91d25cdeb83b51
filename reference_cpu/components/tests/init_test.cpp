// init.hpp: PyTorch's values, which parameters are drawn, cleared and left alone, and independence of dtype
// and ranks.
#include "reference_cpu/components/init.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "moeref/error.hpp"

namespace moeref {
namespace {

MoEConfig full_config() {
  MoEConfig c;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.n_activated_experts = 2;
  c.gate_bias_update_factor = 0.001;
  c.score_func = ScoreFunc::sigmoid;
  c.dim = 32;
  c.inter_dim = 64;
  c.moe_inter_dim = 24;
  c.router_bias = c.expert_bias = c.shared_expert_gate = true;
  c.moe_latent_size = 16;
  c.dtype = DType::float32;
  return c;
}

CallOptions torch_options() {
  CallOptions o;
  o.torch_cpu_seed = 1234;
  o.fill_before = 7.0;
  return o;
}

CallOptions own_options() {
  CallOptions o;
  o.seed = 99;
  o.fill_before = 7.0;
  return o;
}

struct Ends {
  const char* name;
  double first, last;
};

void expect_ends(const NamedTensors& tensors, std::initializer_list<Ends> ends) {
  EXPECT_EQ(tensors.size(), ends.size());
  for (const Ends& e : ends) {
    const Tensor& tensor = require(tensors, "outputs/" + std::string(e.name));
    EXPECT_EQ(tensor[0], e.first) << e.name;
    EXPECT_EQ(tensor[tensor.size() - 1], e.last) << e.name;
  }
}

// The documented system's init_weights under PyTorch 2.11 on a CPU.
TEST(Init, TorchSeedGivesPyTorchsValues) {
  expect_ends(init_weights(full_config(), torch_options()),
              {
                  {"experts.down_proj_bias", 0.0, 0.0},
                  {"experts.down_projs", -0x1.8719dep-6, 0x1.5c23dap-5},
                  {"experts.gate_and_up_projs", -0x1.ce7054p-6, -0x1.1a7af6p-6},
                  {"experts.gate_up_proj_bias", 0.0, 0.0},
                  {"fc1_latent_proj.bias", 0.0, 0.0},
                  {"fc1_latent_proj.weight", -0x1.cf4caap-6, -0x1.27592cp-6},
                  {"fc2_latent_proj.bias", 0.0, 0.0},
                  {"fc2_latent_proj.weight", -0x1.10e302p-8, 0x1.89e65ep-7},
                  {"gate.bias", 0.0, 0.0},
                  {"gate.e_score_correction_bias", 0.0, 0.0},
                  {"gate.weight", -0x1.24dd0ep-9, -0x1.0a70e6p-7},
                  {"shared_expert_gate.weight", 7.0, 7.0},
                  {"shared_experts.down_proj.bias", 7.0, 7.0},
                  {"shared_experts.down_proj.weight", -0x1.333e12p-6, -0x1.68e9f6p-6},
                  {"shared_experts.gate_proj.bias", 7.0, 7.0},
                  {"shared_experts.gate_proj.weight", 0x1.ba2b98p-6, 0x1.60fd0cp-6},
                  {"shared_experts.up_proj.bias", 7.0, 7.0},
                  {"shared_experts.up_proj.weight", -0x1.d1c53ap-7, -0x1.f38678p-9},
              });
  MoEConfig c = full_config();
  c.gate_bias_update_factor = 0.0;
  c.score_func = ScoreFunc::softmax;
  c.router_bias = c.expert_bias = c.shared_expert_gate = false;
  c.moe_latent_size.reset();
  c.n_shared_experts = 2;
  c.expert_activation = c.shared_expert_activation = ActivationKind::relu2;
  CallOptions o = torch_options();
  o.init_std = 0.01;
  expect_ends(init_weights(c, o), {
                                      {"experts.down_projs", -0x1.8719dep-7, 0x1.071d9p-7},
                                      {"experts.gate_and_up_projs", -0x1.ce7054p-7, -0x1.1a7af6p-7},
                                      {"gate.weight", -0x1.24dd0ep-10, -0x1.0a70e6p-8},
                                      {"shared_experts.down_proj.weight", 0x1.858ddcp-9, 0x1.dd3e28p-12},
                                      {"shared_experts.up_proj.weight", 0x1.18ef7ep-7, -0x1.704272p-8},
                                  });
}

TEST(Init, FakeGateHasNoParametersAndDrawsNothing) {
  CallOptions o = torch_options();
  o.fake_balanced_gate = true;
  const NamedTensors out = init_weights(full_config(), o);
  EXPECT_FALSE(out.contains("outputs/gate.weight"));
  // The generator's first value goes to the experts.
  EXPECT_EQ(require(out, "outputs/experts.gate_and_up_projs")[0],
            require(init_weights(full_config(), torch_options()), "outputs/gate.weight")[0]);
}

TEST(Init, OwnSeedClearsBiasesAndLeavesTheSharedExpertsOwn) {
  const NamedTensors out = init_weights(full_config(), own_options());
  for (const char* name : {"gate.bias", "gate.e_score_correction_bias", "experts.gate_up_proj_bias",
                           "experts.down_proj_bias", "fc1_latent_proj.bias", "fc2_latent_proj.bias"})
    for (const double value : require(out, "outputs/" + std::string(name)).doubles())
      EXPECT_EQ(value, 0.0) << name;
  for (const char* name : {"shared_expert_gate.weight", "shared_experts.gate_proj.bias",
                           "shared_experts.up_proj.bias", "shared_experts.down_proj.bias"})
    for (const double value : require(out, "outputs/" + std::string(name)).doubles())
      EXPECT_EQ(value, 7.0) << name;
  EXPECT_EQ(require(out, "outputs/gate.e_score_correction_bias").dtype(), DType::float32);
}

TEST(Init, OwnSeedRoundsTheSameDrawToEveryDtype) {
  MoEConfig c = full_config();
  c.dtype = DType::float64;
  const NamedTensors exact = init_weights(c, own_options());
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    c.dtype = dtype;
    const NamedTensors out = init_weights(c, own_options());
    EXPECT_EQ(require(out, "outputs/experts.down_projs"),
              require(exact, "outputs/experts.down_projs").cast(dtype));
  }
}

TEST(Init, OwnSeedDoesNotDependOnRanks) {
  const MoEConfig c = full_config();
  const NamedTensors out = init_weights(c, own_options());
  for (const char* name : {"experts.gate_and_up_projs", "experts.down_projs", "experts.down_proj_bias"}) {
    const Tensor& whole = require(out, "outputs/" + std::string(name));
    for (const std::int64_t per_rank : {1, 2, 3, 8})
      for (std::int64_t first = 0; first + per_rank <= 8; first += per_rank) {
        const Tensor shard = init_experts_local(c, own_options(), name, first, per_rank);
        ASSERT_EQ(shard.extent(0), per_rank);
        const std::int64_t offset = first * (whole.size() / 8);
        for (std::int64_t i = 0; i < shard.size(); ++i) ASSERT_EQ(shard[i], whole[offset + i]) << name;
      }
  }
}

TEST(Init, FewerExpertsKeepTheirValues) {
  MoEConfig c = full_config();
  const Tensor eight = require(init_weights(c, own_options()), "outputs/experts.down_projs");
  c.n_routed_experts = 4;
  const Tensor four = require(init_weights(c, own_options()), "outputs/experts.down_projs");
  for (std::int64_t i = 0; i < four.size(); ++i) ASSERT_EQ(four[i], eight[i]);
}

TEST(Init, BoundsAreZeroWhereNothingIsDrawn) {
  std::map<std::string, BoundedTensor> results;
  init_results(to_json(full_config()), torch_options(), results);
  for (const auto& [name, tensor] : results) {
    const bool drawn =
        name.find("bias") == std::string::npos && name.find("shared_expert_gate") == std::string::npos;
    for (const float bound : tensor.bound) ASSERT_EQ(bound > 0.0f, drawn) << name;
  }
}

TEST(Init, RefusesBadRequests) {
  const MoEConfig c = full_config();
  EXPECT_THROW(init_weights(c, CallOptions{}), InputError);
  CallOptions both = own_options();
  both.torch_cpu_seed = 1;
  EXPECT_THROW(init_weights(c, both), InputError);
  EXPECT_THROW(init_experts_local(c, torch_options(), "experts.down_projs", 0, 1), InputError);
  EXPECT_THROW(init_experts_local(c, own_options(), "gate.weight", 0, 1), InputError);
  EXPECT_THROW(init_experts_local(c, own_options(), "experts.down_projs", 7, 2), InputError);
  EXPECT_THROW(init_experts_local(c, own_options(), "experts.down_projs", -1, 2), InputError);
}

}  // namespace
}  // namespace moeref
