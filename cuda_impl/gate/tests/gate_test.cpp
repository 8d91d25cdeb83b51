// The gate against the reference's bounds: random calls, the products' tile edges, every routing rule at
// every number of experts per lane, and the corners.
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref::cuda::test {
namespace {

constexpr ScoreFunc kScores[] = {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias,
                                 ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus};

class GateCalls : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
};

TEST_P(GateCalls, RandomCallsWithinTheBounds) {
  for (const Numbers numbers : {Numbers::ordinary, Numbers::adversarial}) {
    Judged total;
    for (std::uint64_t seed = 0; seed < 200; ++seed)
      judge_call(random_call(Component::gate, GetParam(), seed, numbers, Rules::documented),
                 "seed " + std::to_string(seed), total);
    EXPECT_GT(total.calls, 100);
    RecordProperty(numbers == Numbers::ordinary ? "ordinary_worst" : "adversarial_worst",
                   std::to_string(total.worst));
  }
}

// Tokens, dim and experts around the tiles of 32, 64 and 128 and the K blocks of 64, and sums over D in
// several ranges.
TEST_P(GateCalls, EveryTileEdge) {
  Judged total;
  std::uint64_t seed = 100;
  for (const auto& [tokens, dim, experts] : {std::array<std::int64_t, 3>{1, 8, 1},
                                             {1, 64, 2},
                                             {63, 72, 7},
                                             {64, 64, 8},
                                             {65, 136, 9},
                                             {127, 56, 31},
                                             {128, 128, 32},
                                             {129, 200, 33},
                                             {130, 64, 63},
                                             {70, 72, 64},
                                             {66, 8, 65},
                                             {257, 40, 127},
                                             {200, 192, 128},
                                             {131, 72, 129},
                                             {5, 2048, 16},
                                             {3, 1032, 160},
                                             {1, 4096, 256},
                                             {90, 520, 64},
                                             {40, 776, 40},
                                             {300, 24, 3},
                                             {33, 7, 12},
                                             {150, 33, 200},
                                             {2, 1023, 5},
                                             {64, 80, 512},
                                             {20, 16, 1024}}) {
    MoEConfig c = gate_only(experts, std::min<std::int64_t>(experts, 4), dim, GetParam());
    c.score_func = kScores[seed % 5];
    c.norm_topk_prob = seed % 2;
    c.router_bias = seed % 3 == 0;
    c.aux_loss_coeff = seed % 4 == 0 ? 0.0 : 0.5;
    judge_call(filled_call(Component::gate, c, tokens, seed), "T " + std::to_string(tokens), total);
    ++seed;
  }
  EXPECT_EQ(total.calls, 25);
}

// Parameters in fp32 beside tokens in 16 bits: as planes through the tensor cores where D allows it, rounded
// to one plane or held exactly in three, as the precision of the logits asks; around the same tile edges.
TEST(GateOfFloat32Parameters, EveryTileEdge) {
  MOEREF_NEEDS_DEVICE();
  Judged total;
  std::uint64_t seed = 900;
  for (const DType x_type : {DType::bfloat16, DType::float16})
    for (const bool in_float32 : {false, true})
      for (const auto& [tokens, dim, experts] : {std::array<std::int64_t, 3>{1, 8, 1},
                                                 {65, 136, 9},
                                                 {129, 200, 33},
                                                 {66, 8, 65},
                                                 {131, 72, 129},
                                                 {33, 7, 12}}) {
        MoEConfig c = gate_only(experts, std::min<std::int64_t>(experts, 4), dim, DType::float32);
        c.score_func = kScores[seed % 5];
        c.router_bias = seed % 3 == 0;
        c.aux_loss_coeff = seed % 4 == 0 ? 0.0 : 0.5;
        nlohmann::json options = nlohmann::json::object();
        if (in_float32) options["gate_precision"] = "float32";
        Call call = filled_call(Component::gate, c, tokens, seed, true, options);
        for (auto& [name, tensor] : call.tensors)
          if (name.starts_with("inputs/") && tensor.dtype() == DType::float32) {
            Tensor narrow(x_type, tensor.shape());
            for (std::int64_t i = 0; i < tensor.size(); ++i) narrow.set(i, round_to(x_type, tensor[i]));
            tensor = narrow;
          }
        judge_call(call, "T " + std::to_string(tokens), total);
        ++seed;
      }
  EXPECT_EQ(total.calls, 24);
}

TEST_P(GateCalls, EveryRuleAtEveryNumberOfExpertsALane) {
  Judged total;
  std::uint64_t seed = 500;
  for (const std::int64_t experts : {24, 64, 96, 256, 512, 1024})
    for (const ScoreFunc score : kScores)
      for (const int variant : {0, 1, 2}) {
        MoEConfig c = gate_only(experts, variant == 2 ? 24 : 8, 16, GetParam());
        c.score_func = score;
        c.softmax_before_topk = variant == 0;
        c.norm_topk_prob = variant != 1;
        c.force_e_score_correction_bias = variant != 1;
        c.router_weight_uses_score_correction_bias = variant == 2;
        c.router_weights_fp32 = variant == 1;
        c.n_expert_groups = variant == 0 ? 8 : variant == 1 ? 4 : 1;
        c.n_limited_groups = variant == 0 ? 4 : variant == 1 ? 3 : 1;
        c.aux_loss_coeff = 0.1;
        c.route_scale = 2.5;
        judge_call(filled_call(Component::gate, c, 37, ++seed), "variant " + std::to_string(variant), total);
      }
  EXPECT_EQ(total.calls, 90);
}

TEST_P(GateCalls, EveryPrecision) {
  Judged total;
  for (const char* precision : {"bfloat16", "float16", "float32", "float64"})
    for (const std::int64_t experts : {8, 100, 300, 1024})
      for (const ScoreFunc score : kScores) {
        MoEConfig c = gate_only(experts, 6, 72, GetParam());
        c.score_func = score;
        c.norm_topk_prob = true;
        c.aux_loss_coeff = 0.3;
        c.router_bias = true;
        judge_call(
            filled_call(Component::gate, c, 40, 900 + total.calls, true, {{"gate_precision", precision}}),
            precision, total);
      }
  EXPECT_EQ(total.calls, 80);
}

TEST_P(GateCalls, Corners) {
  MoEConfig c = gate_only(16, 4, 24, GetParam());
  c.norm_topk_prob = true;
  c.aux_loss_coeff = 1.0;
  c.router_bias = true;
  expect_passes(filled_call(Component::gate, c, 0, 1), "no token");
  expect_passes(filled_call(Component::gate, c, 1, 2), "one token");
  Call masked = filled_call(Component::gate, c, 50, 3);
  for (std::int64_t t = 0; t < 50; ++t) masked.tensors["inputs/token_mask"].set(t, 0.0);
  expect_passes(masked, "all masked");
  c.n_activated_experts = 16;
  expect_passes(filled_call(Component::gate, c, 20, 4), "k = E");
  expect_passes(filled_call(Component::gate, gate_only(64, 64, 16, GetParam()), 20, 5), "k = E = 64");
  expect_passes(filled_call(Component::gate, gate_only(1024, 64, 16, GetParam()), 20, 6), "k = 64 of 1024");
  expect_passes(filled_call(Component::gate, gate_only(1, 1, 16, GetParam()), 20, 7), "one expert");
  MoEConfig groups = gate_only(64, 3, 16, GetParam());
  groups.score_func = ScoreFunc::sigmoid;
  groups.n_expert_groups = 64, groups.n_limited_groups = 5;
  expect_passes(filled_call(Component::gate, groups, 30, 8), "groups of one");
  groups = gate_only(1024, 8, 16, GetParam());
  groups.score_func = ScoreFunc::sigmoid_with_bias;
  groups.n_expert_groups = 512, groups.n_limited_groups = 100;
  expect_passes(filled_call(Component::gate, groups, 10, 9), "512 groups");
}

// Every biased score negative: an expert of a discarded group, whose score is 0, beats them (SPEC.md 3.1).
TEST_P(GateCalls, DiscardedGroupsOfScoreZero) {
  for (const ScoreFunc score :
       {ScoreFunc::sigmoid, ScoreFunc::softmax_with_bias, ScoreFunc::sigmoid_with_bias}) {
    MoEConfig c = gate_only(32, 4, 16, GetParam());
    c.score_func = score;
    c.force_e_score_correction_bias = true;
    c.n_expert_groups = 4, c.n_limited_groups = 2;
    Call call = filled_call(Component::gate, c, 40, 21);
    for (std::int64_t e = 0; e < 32; ++e)
      call.tensors["params/e_score_correction_bias"].set(e, -3.0 - 0.01 * e);
    expect_passes(call, "negative scores", true);
  }
}

TEST_P(GateCalls, TheLowestIdAmongEquals) {
  for (const ScoreFunc score : kScores)
    for (const bool before : {false, true}) {
      MoEConfig c = gate_only(96, 7, 24, GetParam());
      c.score_func = score;
      c.softmax_before_topk = before;
      Call call = filled_call(Component::gate, c, 33, 31);
      Tensor& weight = call.tensors["params/weight"];
      for (std::int64_t e = 0; e < 96; ++e)  // pairs of equal rows, 48 apart
        for (std::int64_t d = 0; d < 24; ++d) weight.set(e * 24 + d, weight[e % 48 * 24 + d]);
      expect_passes(call, "equal rows", true);
      for (std::int64_t i = 0; i < weight.size(); ++i) weight.set(i, i % 2 ? 0.0 : -0.0);
      const NamedTensors out = CudaImplementation().run(call);
      for (std::int64_t i = 0; i < 33 * 7; ++i) EXPECT_EQ(out.at("outputs/indices")[i], i % 7) << name(score);
    }
}

TEST_P(GateCalls, ReplayWithAnIdTwice) {
  for (const ScoreFunc score : kScores) {
    MoEConfig c = gate_only(40, 3, 24, GetParam());
    c.score_func = score;
    c.norm_topk_prob = c.enable_routing_replay = true;
    c.aux_loss_coeff = 0.7;
    Call call = filled_call(Component::gate, c, 21, 41);
    Tensor ids(DType::int64, {21, 3});
    for (std::int64_t i = 0; i < ids.size(); ++i) ids.set(i, static_cast<double>((i * 7 + i / 3) % 40));
    for (std::int64_t t = 0; t < 21; t += 2) ids.set(t * 3 + 2, ids[t * 3]);
    call.tensors["inputs/replay_indices"] = ids;
    expect_passes(call, "replay");
    EXPECT_TRUE(CudaImplementation().run(call).at("outputs/indices") == ids);
  }
}

TEST_P(GateCalls, ContextParallelStatistics) {
  for (const auto& parts : {std::vector<std::int64_t>{}, {0, 30, 15}}) {
    MoEConfig c = gate_only(24, 4, 24, GetParam());
    c.norm_topk_prob = true;
    c.aux_loss_coeff = 0.7;
    nlohmann::json options{{"cp_size", 3}, {"aux_loss_backward_scale", 8.0}};
    if (!parts.empty()) options["tokens_per_rank"] = parts;
    expect_passes(filled_call(Component::gate, c, 45, 51, true, options), "cp_size 3");
  }
}

TEST_P(GateCalls, TheSameBitsOnEveryRun) {
  MoEConfig c = gate_only(128, 8, 512, GetParam());
  c.norm_topk_prob = c.router_bias = true;
  c.aux_loss_coeff = 0.1;
  expect_repeatable(filled_call(Component::gate, c, 777, 61));
  expect_repeatable(filled_call(Component::gate, c, 5, 62));
}

// As in training, and more tokens than blocks hold at least: wrong choices would show as ambiguity beyond
// that of the logits' rounding.
TEST_P(GateCalls, ManyTokensAndFewAmbiguous) {
  MoEConfig c = gate_only(128, 8, 256, GetParam());
  c.norm_topk_prob = true;
  c.aux_loss_coeff = 0.01;
  Judged total;
  judge_call(filled_call(Component::gate, c, 3000, 71, false), "3000 tokens", total);
  EXPECT_LT(total.ambiguous, GetParam() == DType::float32 ? 3 : 450);
  EXPECT_EQ(total.calls, 1);
}

INSTANTIATE_TEST_SUITE_P(Types, GateCalls, testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

}  // namespace
}  // namespace moeref::cuda::test
