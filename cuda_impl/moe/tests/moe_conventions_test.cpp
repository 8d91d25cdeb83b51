// The layer under rules that the documented system does not have (SPEC.md 10), alone and on expert-parallel
// ranks, against the reference's bounds.
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref::cuda::test {
namespace {

class LayerConventions : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
};
INSTANTIATE_TEST_SUITE_P(Types, LayerConventions,
                         testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(LayerConventions, RandomCallsWithinTheBounds) {
  Judged total, on_ranks;
  for (std::uint64_t seed = 0; seed < 160; ++seed) {
    const Call call = without_missing_rules(random_call(Component::moe, GetParam(), seed, Numbers::ordinary));
    if (conventions_of(call).empty()) continue;
    judge_call(call, "seed " + std::to_string(seed), call.options.contains("ep_size") ? on_ranks : total);
  }
  EXPECT_GT(total.calls, 50);
  EXPECT_GT(on_ranks.calls, 5);
}

// Slots without an expert reach no rank.
TEST_P(LayerConventions, RanksReplayNullSlots) {
  for (const NullSlots null : {NullSlots::minus_one, NullSlots::n_routed_experts}) {
    MoEConfig c = gate_only(8, 3, 16, GetParam());
    c.score_func = ScoreFunc::sigmoid;
    c.norm_topk_prob = c.enable_routing_replay = true;
    c.norm_eps = 0.0;
    c.null_slots = null;
    for (const char* exchange : {"all_gather", "all_to_all"}) {
      Call call = filled_call(Component::moe, c, 14, 9, true, {{"ep_size", 2}, {"exchange", exchange}});
      Tensor ids(DType::int64, {14, 3});
      for (std::int64_t i = 0; i < ids.size(); ++i)
        ids.set(i, static_cast<double>(i % 4 == 1 || i < 3 ? c.null_id() : (i * 3 + i / 3) % 8));
      call.tensors["inputs/replay_indices"] = ids;
      expect_passes(call, exchange);
    }
  }
}

// Of limited capacity as the others, behind a latent projection too.
TEST_P(LayerConventions, ExpertsThatReturnTheirInput) {
  for (const int ranks : {1, 2})
    for (const bool latent : {false, true}) {
      MoEConfig c = gate_only(9, 3, 16, GetParam());
      c.n_identity_experts = 3;
      c.expert_capacity = latent ? 0 : 9;
      if (latent) c.moe_latent_size = 12;
      nlohmann::json options = nlohmann::json::object();
      if (ranks > 1) options = {{"ep_size", ranks}, {"exchange", "all_gather"}};
      expect_passes(filled_call(Component::moe, c, 30, 12, true, options), "experts that return their input");
    }
}

// The gate, the projections and the shared experts stay in float32.
TEST(LayerComputeDtype, CoarserThanTheLayers) {
  MOEREF_NEEDS_DEVICE();
  Judged total;
  for (const DType compute : {DType::bfloat16, DType::float16})
    for (const int ranks : {1, 2})
      for (const bool latent : {false, true}) {
        MoEConfig c = gate_only(8, 3, 16, DType::float32);
        c.expert_compute_dtype = compute;
        c.n_shared_experts = latent ? 0 : 1;
        c.expert_bias = ranks == 2;
        if (latent) c.moe_latent_size = 12;
        nlohmann::json options = nlohmann::json::object();
        if (ranks > 1) options = {{"ep_size", ranks}, {"exchange", "all_gather"}};
        judge_call(filled_call(Component::moe, c, 30, 160 + total.calls, true, options), "", total);
      }
  EXPECT_EQ(total.calls, 8);
}

TEST_P(LayerConventions, ExpertsOfLimitedCapacity) {
  for (const CapacityOrder order : {CapacityOrder::token, CapacityOrder::choice, CapacityOrder::weight})
    for (const int ranks : {1, 2}) {
      MoEConfig c = gate_only(8, 3, 16, GetParam());
      c.norm_topk_prob = true;
      c.capacity_factor = 0.5;
      c.capacity_order = order;
      c.norm_after_dropping = ranks == 2;
      c.per_expert_scale = order != CapacityOrder::choice;
      c.aux_loss_coeff = 0.1;
      nlohmann::json options = nlohmann::json::object();
      if (ranks > 1) options = {{"ep_size", ranks}, {"exchange", "all_to_all"}};
      expect_passes(filled_call(Component::moe, c, 40, 11, true, options), "limited capacity");
    }
}

// Losses per sequence, of the batch and with earlier loads, of one rank; and without the first on two.
TEST_P(LayerConventions, SeveralLosses) {
  MoEConfig c = gate_only(8, 3, 16, GetParam());
  c.softmax_before_topk = c.norm_topk_prob = true;
  c.batch_loss_coeff = 0.5, c.global_loss_coeff = 0.25;
  for (const nlohmann::json& options : {nlohmann::json::object(), nlohmann::json{{"cp_size", 2}}}) {
    c.aux_loss_coeff = options.empty() ? 0.1 : 0.0, c.aux_loss_sequences = 5;
    expect_passes(filled_call(Component::moe, c, 30, 12, true, options), options.dump());
  }
}

// All rules of the gate that CUDA has beside each other, on ranks with tokens of their own.
TEST_P(LayerConventions, RanksUnderRulesOfTheGate) {
  MoEConfig c = gate_only(8, 3, 40, GetParam());
  c.score_func = ScoreFunc::sigmoid;
  c.norm_topk_prob = true;
  c.aux_loss_coeff = c.z_loss_coeff = c.global_loss_coeff = 0.1;
  c.batch_loss_coeff = 0.4;
  c.aux_loss_accumulated = true, c.aux_loss_counts = AuxLossCounts::first_choice;
  c.router_input_norm = c.router_jitter = c.per_expert_scale = true;
  c.selection_scores = SelectionScores::sinkhorn;
  for (const char* exchange : {"all_gather", "all_to_all"})
    expect_passes(filled_call(Component::moe, c, 14, 10, true,
                              {{"ep_size", 2}, {"exchange", exchange}, {"aux_loss_backward_scale", 4.0}}),
                  exchange);
}

}  // namespace
}  // namespace moeref::cuda::test
