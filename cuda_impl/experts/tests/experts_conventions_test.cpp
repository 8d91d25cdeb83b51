// The routed experts' activations that the documented system does not have (SPEC.md 10), against the
// reference's bounds: beside the edges of tiles, with biases, either place of the weight, quantised weights,
// and numbers past the clamps.
#include "cuda_impl/adaptors/tests/judged.hpp"

namespace moeref::cuda::test {
namespace {

constexpr ActivationKind kBeyond[] = {ActivationKind::geglu_erf, ActivationKind::silu, ActivationKind::gelu,
                                      ActivationKind::gelu_tanh, ActivationKind::relu, ActivationKind::situ,
                                      ActivationKind::swiglu};  // clamped after

class ExpertsConventions : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
  static MoEConfig config(std::int64_t dim, std::int64_t inter_dim, ActivationKind activation) {
    MoEConfig c = gate_only(5, 2, dim, GetParam());
    c.moe_inter_dim = inter_dim;
    c.expert_activation = activation;
    c.swiglu_limit = 0.7;
    c.clamp_after_activation = true;
    c.situ_beta = 2.5, c.situ_linear_beta = inter_dim % 2 == 0 ? 9.0 : 0.0;
    return c;
  }
  static nlohmann::json on_ranks(std::int64_t ranks) {
    if (ranks == 1) return nlohmann::json::object();
    return {{"ep_size", ranks}, {"exchange", ranks == 2 ? "all_gather" : "all_to_all"}};
  }
};
INSTANTIATE_TEST_SUITE_P(Types, ExpertsConventions,
                         testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(ExpertsConventions, ActivationsBiasesAndPlacesOfTheWeight) {
  Judged total;
  for (const ActivationKind activation : kBeyond)
    for (const auto& [tokens, dim, inter_dim] :
         {std::array<std::int64_t, 3>{1, 8, 8}, {33, 24, 16}, {70, 19, 13}, {150, 136, 72}}) {
      MoEConfig c = config(dim, inter_dim, activation);
      c.expert_bias = total.calls % 2;
      c.apply_router_weight_after_down = total.calls % 3 == 0;
      judge_call(filled_call(Component::experts, c, tokens, 70 + total.calls), "", total);
    }
  EXPECT_EQ(total.calls, 28);
}

TEST_P(ExpertsConventions, LargeNumbers) {
  for (const ActivationKind activation : kBeyond) {
    Call call = filled_call(Component::experts, config(16, 24, activation), 40, 5);
    Tensor& x = call.tensors["inputs/x"];
    for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, round_to(x.dtype(), x[i] * 6.0));
    expect_passes(call, "large numbers");
  }
}

// Widths of whole eights and others, ranks in one chunk and in several.
TEST_P(ExpertsConventions, WeightsOnTheInput) {
  Judged total;
  for (const auto& [tokens, dim, inter_dim] :
       {std::array<std::int64_t, 3>{1, 8, 8}, {33, 24, 16}, {70, 19, 13}, {60, 64, 32}})
    for (const ActivationKind activation : {ActivationKind::swiglu, ActivationKind::relu2})
      for (const std::int64_t ranks : {1, 2, 4}) {
        MoEConfig c = config(dim, inter_dim, activation);
        c.n_routed_experts = 8;
        c.router_weight_on_input = true;
        c.clamp_after_activation = false;
        c.expert_bias = total.calls % 2;
        judge_call(filled_call(Component::experts, c, tokens, 90 + total.calls, true, on_ranks(ranks)), "",
                   total);
      }
  EXPECT_EQ(total.calls, 24);
}

// With the weight in each of its places; the others are as many as the ranks divide.
TEST_P(ExpertsConventions, ExpertsThatReturnTheirInput) {
  Judged total;
  for (const auto& [tokens, dim, inter_dim] :
       {std::array<std::int64_t, 3>{1, 8, 8}, {33, 24, 16}, {70, 19, 13}})
    for (const bool after : {false, true})
      for (const std::int64_t ranks : {1, 2, 4}) {
        MoEConfig c = config(dim, inter_dim, ActivationKind::swiglu);
        c.n_routed_experts = 7;
        c.n_activated_experts = 3;
        c.n_identity_experts = 3;
        c.apply_router_weight_after_down = after;
        c.router_weight_on_input = !after && dim == 24;
        c.clamp_after_activation = false;
        c.expert_bias = total.calls % 2;
        judge_call(filled_call(Component::experts, c, tokens, 120 + total.calls, true, on_ranks(ranks)), "",
                   total);
      }
  EXPECT_EQ(total.calls, 18);
}

// Tokens and parameters in float32: with the weight in each of its places, biases, ranks.
TEST(ExpertsComputeDtype, CoarserThanTheLayers) {
  MOEREF_NEEDS_DEVICE();
  Judged total;
  for (const DType compute : {DType::bfloat16, DType::float16})
    for (const auto& [tokens, dim, inter_dim] :
         {std::array<std::int64_t, 3>{1, 8, 8}, {33, 24, 16}, {70, 19, 13}})
      for (const std::int64_t ranks : {1, 2}) {
        MoEConfig c = gate_only(8, 2, dim, DType::float32);
        c.moe_inter_dim = inter_dim;
        c.expert_compute_dtype = compute;
        c.expert_bias = total.calls % 2;
        c.apply_router_weight_after_down = total.calls % 3 == 0;
        c.router_weight_on_input = total.calls % 3 == 1;
        c.n_identity_experts = total.calls % 4 == 3 ? 2 : 0;
        nlohmann::json options = nlohmann::json::object();
        if (ranks > 1) options = {{"ep_size", ranks}, {"exchange", "all_to_all"}};
        judge_call(filled_call(Component::experts, c, tokens, 150 + total.calls, true, options), "", total);
      }
  EXPECT_EQ(total.calls, 12);
}

TEST_P(ExpertsConventions, TheSameBitsOnEveryRun) {
  expect_repeatable(filled_call(Component::experts, config(40, 24, ActivationKind::gelu), 90, 6));
}

}  // namespace
}  // namespace moeref::cuda::test
