// The gate under rules that the documented system does not have (SPEC.md 10), against the reference's bounds:
// random calls, and each rule at every number of experts per lane.
#include "cuda_impl/adaptors/tests/judged.hpp"
#include "reference_cpu/call/conventions.hpp"
#include "reference_cpu/tests/random_call.hpp"

namespace moeref::cuda::test {
namespace {

constexpr ScoreFunc kScoresOfRules[] = {ScoreFunc::softmax, ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias,
                                        ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus};

class GateConventions : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override { MOEREF_NEEDS_DEVICE(); }
};

TEST_P(GateConventions, RandomCallsWithinTheBounds) {
  for (const Numbers numbers : {Numbers::ordinary, Numbers::adversarial}) {
    Judged total;
    for (std::uint64_t seed = 0; seed < 300; ++seed) {
      const Call call = without_missing_rules(random_call(Component::gate, GetParam(), seed, numbers));
      if (!conventions_of(call).empty()) judge_call(call, "seed " + std::to_string(seed), total);
    }
    EXPECT_GT(total.calls, 100);
    RecordProperty("calls", total.calls);
  }
}

struct Rule {
  const char* name;
  void (*set)(MoEConfig&);
};
constexpr Rule kRules[] = {
    {"norm_eps", [](MoEConfig& c) { c.norm_eps = 0.125; }},
    {"no_norm_eps", [](MoEConfig& c) { c.norm_eps = 0.0; }},
    {"max_of_sum_and_eps",
     [](MoEConfig& c) { c.norm_denominator = NormDenominator::max_of_sum_and_eps, c.norm_eps = 0.5; }},
    {"top1_weights",
     [](MoEConfig& c) { c.n_activated_experts = 1, c.norm_at_top1 = Top1Norm::weights_and_scores; }},
    {"top1_scores", [](MoEConfig& c) { c.n_activated_experts = 1, c.norm_at_top1 = Top1Norm::scores; }},
    {"logit_scale", [](MoEConfig& c) { c.logit_scale = 0.5; }},
    {"logit_cap", [](MoEConfig& c) { c.logit_cap = 2.0, c.logit_scale = 1.5; }},
    {"selection_by_logits", [](MoEConfig& c) { c.selection_scores = SelectionScores::logits; }},
    {"sinkhorn",
     [](MoEConfig& c) {
       c.selection_scores = SelectionScores::sinkhorn, c.force_e_score_correction_bias = false;
       c.sinkhorn_tolerance = 1e-2;
     }},
    {"aux_loss_factor", [](MoEConfig& c) { c.aux_loss_factor = AuxLossFactor::experts; }},
    {"always_selected", [](MoEConfig& c) { c.n_always_selected = 2; }},
    {"per_expert_scale", [](MoEConfig& c) { c.per_expert_scale = true; }},
    {"sequences",
     [](MoEConfig& c) { c.aux_loss_sequences = 17, c.aux_loss_factor = AuxLossFactor::experts; }},
    {"first_choice", [](MoEConfig& c) { c.aux_loss_counts = AuxLossCounts::first_choice; }},
    {"z_loss", [](MoEConfig& c) { c.z_loss_coeff = 0.5; }},
    {"batch_loss", [](MoEConfig& c) { c.batch_loss_coeff = 0.5, c.aux_loss_sequences = 17; }},
    {"global_loss", [](MoEConfig& c) { c.global_loss_coeff = 0.5, c.aux_loss_coeff = 0.0; }},
    {"three_losses",
     [](MoEConfig& c) {
       c.aux_loss_sequences = 17, c.batch_loss_coeff = 0.5, c.global_loss_coeff = 2.0;
       c.aux_loss_counts = AuxLossCounts::first_choice;
     }},
};
constexpr Rule kGroupRules[] = {
    {"largest", [](MoEConfig& c) { c.group_score = GroupScore::largest; }},
    {"top2_sum", [](MoEConfig& c) { c.group_score = GroupScore::top2_sum; }},
    {"topk_over_g_sum", [](MoEConfig& c) { c.group_score = GroupScore::topk_over_g_sum; }},
    {"zero", [](MoEConfig& c) { c.discarded_groups = DiscardedGroups::zero; }},
    {"minus_infinity", [](MoEConfig& c) { c.discarded_groups = DiscardedGroups::minus_infinity; }},
};

constexpr Rule kCapacityRules[] = {
    {"expert_capacity", [](MoEConfig& c) { c.expert_capacity = 1; }},
    {"capacity_by_choice",
     [](MoEConfig& c) {
       c.capacity_factor = 0.5, c.min_capacity = 2, c.capacity_order = CapacityOrder::choice;
     }},
    {"capacity_by_weight",
     [](MoEConfig& c) { c.expert_capacity = 2, c.capacity_order = CapacityOrder::weight; }},
    {"norm_after_dropping", [](MoEConfig& c) { c.expert_capacity = 1, c.norm_after_dropping = true; }},
    {"scales_after_dropping",
     [](MoEConfig& c) {
       c.expert_capacity = 2, c.capacity_order = CapacityOrder::weight;
       c.norm_after_dropping = c.per_expert_scale = true;
     }},
    {"norm_after_dropping_by_weight",
     [](MoEConfig& c) {
       c.capacity_factor = 0.3, c.capacity_order = CapacityOrder::weight, c.norm_after_dropping = true;
       c.norm_denominator = NormDenominator::max_of_sum_and_eps, c.norm_eps = 0.25;
       c.null_slots = NullSlots::n_routed_experts;
     }},
};

MoEConfig ruled_config(std::int64_t experts, std::int64_t k, DType dtype, ScoreFunc score) {
  MoEConfig c = gate_only(experts, k, 16, dtype);
  c.score_func = score;
  c.softmax_before_topk = experts % 3 == 0;
  c.norm_topk_prob = true;
  c.force_e_score_correction_bias = experts % 3 != 1;
  c.aux_loss_coeff = 0.1;
  c.route_scale = 2.5;
  return c;
}

TEST_P(GateConventions, EachRuleAtEveryNumberOfExpertsALane) {
  for (const Rule& rule : kRules) {
    Judged total;
    for (const std::int64_t experts : {24, 64, 96, 256, 512, 1024}) {
      const ScoreFunc score = kScoresOfRules[(total.calls + (&rule - kRules)) % 5];
      MoEConfig c = ruled_config(experts, 6, GetParam(), score);
      rule.set(c);
      judge_call(filled_call(Component::gate, c, 17, 300 + total.calls), rule.name, total);
    }
    EXPECT_EQ(total.calls, 6) << rule.name;
  }
}

TEST_P(GateConventions, EachRuleOfGroups) {
  for (const Rule& rule : kGroupRules) {
    Judged total;
    for (const std::int64_t experts : {32, 128, 256, 1024})
      for (const ScoreFunc score : {ScoreFunc::sigmoid, ScoreFunc::sigmoid_with_bias,
                                    ScoreFunc::softmax_with_bias, ScoreFunc::sqrtsoftplus}) {
        MoEConfig c = ruled_config(experts, 6, GetParam(), score);
        c.n_expert_groups = 8, c.n_limited_groups = 2;  // topk_over_g_sum adds three
        rule.set(c);
        if (score == ScoreFunc::sqrtsoftplus && c.discarded_groups == DiscardedGroups::by_score_func)
          c.discarded_groups = DiscardedGroups::minus_infinity;
        if (score == ScoreFunc::sqrtsoftplus && c.group_score == GroupScore::by_score_func)
          c.group_score = GroupScore::largest;
        judge_call(filled_call(Component::gate, c, 11, 400 + total.calls), rule.name, total);
      }
    EXPECT_EQ(total.calls, 16) << rule.name;
  }
}

// Every biased score negative: whether a discarded group's expert, of score 0, may win.
TEST_P(GateConventions, DiscardedGroupsOfNegativeScores) {
  for (const DiscardedGroups discarded : {DiscardedGroups::zero, DiscardedGroups::minus_infinity}) {
    MoEConfig c = ruled_config(32, 4, GetParam(), ScoreFunc::sigmoid_with_bias);
    c.n_expert_groups = 4, c.n_limited_groups = 2;
    c.discarded_groups = discarded;
    Call call = filled_call(Component::gate, c, 40, 21);
    for (std::int64_t e = 0; e < 32; ++e)
      call.tensors["params/e_score_correction_bias"].set(e, -3.0 - 0.01 * e);
    expect_passes(call, "negative scores", true);
  }
}

TEST_P(GateConventions, NullSlotsAmongReplayedIds) {
  for (const NullSlots null : {NullSlots::minus_one, NullSlots::n_routed_experts})
    for (const ScoreFunc score : kScoresOfRules) {
      MoEConfig c = ruled_config(40, 3, GetParam(), score);
      c.enable_routing_replay = true;
      c.null_slots = null;
      Call call = filled_call(Component::gate, c, 21, 41);
      Tensor ids(DType::int64, {21, 3});
      for (std::int64_t i = 0; i < ids.size(); ++i)
        ids.set(i, static_cast<double>(i % 4 == 1 || i < 3 ? c.null_id() : (i * 7 + i / 3) % 40));
      call.tensors["inputs/replay_indices"] = ids;
      expect_passes(call, "null slots");
    }
}

// On ranks, too, each of which drops among its own tokens, and in float64.
TEST_P(GateConventions, EachRuleOfCapacity) {
  for (const Rule& rule : kCapacityRules) {
    Judged total;
    for (const ScoreFunc score : kScoresOfRules)
      for (const nlohmann::json& options : {nlohmann::json{{"cp_size", 2}, {"tokens_per_rank", {27, 13}}},
                                            nlohmann::json{{"gate_precision", "float64"}}}) {
        MoEConfig c = ruled_config(total.calls % 3 == 0 ? 24 : 7, 4, GetParam(), score);
        rule.set(c);
        judge_call(filled_call(Component::gate, c, 40, 500 + total.calls, true, options), rule.name, total);
      }
    EXPECT_EQ(total.calls, 10) << rule.name;
  }
}

// Slots that are dropped beside what else follows the selection.
TEST_P(GateConventions, CapacityBesideScalesAndLosses) {
  for (const CapacityOrder order : {CapacityOrder::token, CapacityOrder::choice, CapacityOrder::weight}) {
    MoEConfig c = ruled_config(12, 3, GetParam(), ScoreFunc::sigmoid);
    c.capacity_factor = 0.6, c.capacity_order = order;
    c.per_expert_scale = c.router_input_norm = c.router_jitter = c.aux_loss_accumulated = true;
    c.aux_loss_coeff = c.z_loss_coeff = 0.2;
    expect_passes(filled_call(Component::gate, c, 40, 54), "capacity, scales and losses");
  }
}

// Most tokens lose all of their slots: 12 experts take 24 slots of 40 tokens at most. Of negative factors the
// order by weight is another than that of the scores, also of a negative route_scale.
TEST_P(GateConventions, ScalesOfWeightsDividedAfterDropping) {
  Judged total;
  for (const CapacityOrder order : {CapacityOrder::token, CapacityOrder::choice, CapacityOrder::weight})
    for (const ScoreFunc score : kScoresOfRules)
      for (const double route_scale : {1.0, 2.5, -1.5})
        for (const bool after_topk : {false, true}) {
          if (after_topk && score != ScoreFunc::softmax) continue;
          MoEConfig c = ruled_config(12, 3, GetParam(), score);
          c.softmax_before_topk = !after_topk;
          c.expert_capacity = 1 + total.calls % 2, c.capacity_order = order;
          c.per_expert_scale = c.norm_after_dropping = true;
          c.route_scale = route_scale;
          if (total.calls % 4 == 0)
            c.norm_denominator = NormDenominator::max_of_sum_and_eps, c.norm_eps = 0.25;
          Call call = filled_call(Component::gate, c, 40, 600 + total.calls);
          Tensor& scale = call.tensors.at("params/per_expert_scale");
          scale.set(0, 0.0), scale.set(5, -2.0), scale.set(11, 3.0);
          judge_call(call, "scales of weights divided after dropping", total);
        }
  EXPECT_EQ(total.calls, 3 * 6 * 3);
}

// More tokens than warps, and the tolerance of the default.
TEST_P(GateConventions, BalancedChoice) {
  Judged total;
  for (const ScoreFunc score : kScoresOfRules) {
    MoEConfig c = ruled_config(40, 3, GetParam(), score);
    c.selection_scores = SelectionScores::sinkhorn, c.force_e_score_correction_bias = false;
    judge_call(filled_call(Component::gate, c, 70, 54), "sinkhorn", total);
  }
  EXPECT_EQ(total.calls, 5);
  EXPECT_LT(total.ambiguous, GetParam() == DType::float32 ? 10 : 350);
}

// Sequences of more tokens than a block has.
TEST_P(GateConventions, LongSequences) {
  MoEConfig c = ruled_config(40, 3, GetParam(), ScoreFunc::softmax_with_bias);
  c.aux_loss_sequences = 2, c.z_loss_coeff = 0.1;
  expect_passes(filled_call(Component::gate, c, 2 * 70, 53), "two sequences");
  c.batch_loss_coeff = 0.3, c.global_loss_coeff = 0.2;
  expect_passes(filled_call(Component::gate, c, 2 * 70, 55), "two sequences and all of them");
}

// Sums of all ranks, one of which has no token; the z-loss with and without the losses by load.
TEST_P(GateConventions, LossesOfContextParallelRanks) {
  for (const double aux : {0.0, 0.7})
    for (const double further : {0.0, 0.4}) {
      MoEConfig c = ruled_config(24, 4, GetParam(), ScoreFunc::sigmoid);
      c.aux_loss_coeff = aux, c.z_loss_coeff = 0.3, c.logit_cap = 1.0;
      c.batch_loss_coeff = further, c.global_loss_coeff = 2.0 * further;
      c.aux_loss_accumulated = true, c.aux_loss_counts = AuxLossCounts::first_choice;
      expect_passes(
          filled_call(Component::gate, c, 45, 52, true, {{"cp_size", 3}, {"tokens_per_rank", {0, 30, 15}}}),
          "cp_size 3");
    }
}

// Every subset of the losses by load, of all tokens masked, too.
TEST_P(GateConventions, EverySubsetOfTheLossesByLoad) {
  for (int subset = 1; subset < 8; ++subset)
    for (const bool masked : {false, true}) {
      MoEConfig c = ruled_config(40, 3, GetParam(), ScoreFunc::softmax);
      c.softmax_before_topk = true;
      c.aux_loss_coeff = subset & 1 ? 0.3 : 0.0;
      c.batch_loss_coeff = subset & 2 ? 0.5 : 0.0;
      c.global_loss_coeff = subset & 4 ? 0.7 : 0.0;
      if (subset != 5) c.aux_loss_sequences = 3;
      c.aux_loss_accumulated = subset == 5;
      Call call = filled_call(Component::gate, c, 21, 700 + subset, true, {{"aux_loss_backward_scale", 3.0}});
      if (masked) call.tensors["inputs/token_mask"] = Tensor(DType::boolean, {21});
      expect_passes(call, "losses " + std::to_string(subset));
    }
}

INSTANTIATE_TEST_SUITE_P(Types, GateConventions,
                         testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& info) { return std::string(name(info.param)); });

}  // namespace
}  // namespace moeref::cuda::test
