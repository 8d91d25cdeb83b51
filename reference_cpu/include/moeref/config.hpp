// The configs and call options of the documented components, as they stand in golden files and in the port
// ABI (JSON).
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moeref/accumulator.hpp"
#include "moeref/activation_format.hpp"
#include "moeref/activation_kind.hpp"
#include "moeref/conventions.hpp"
#include "moeref/dtype.hpp"
#include "moeref/float32_products.hpp"
#include "moeref/score_func.hpp"
#include "moeref/weight_format.hpp"

namespace moeref {

// A member of these structs has its row in reference_cpu/call/config_fields.hpp, in the same order.

/// The documented system's MoEConfig: same field names, same defaults. Fields without a default there have
/// none here.
struct MoEConfig {
  std::int64_t n_routed_experts = 0;     ///< E
  std::int64_t n_shared_experts = 0;     ///< 0 = none
  std::int64_t n_activated_experts = 0;  ///< k
  std::int64_t n_expert_groups = 1;      ///< G
  std::int64_t n_limited_groups = 1;     ///< g
  bool train_gate = true;                ///< gate parameters get gradients
  double gate_bias_update_factor = 0.0;  ///< > 0: a correction bias exists and is updated
  double aux_loss_coeff = 0.0;
  ScoreFunc score_func = ScoreFunc::softmax;
  double route_scale = 1.0;
  std::int64_t dim = 0;            ///< D
  std::int64_t inter_dim = 0;      ///< width of the model's dense layers, unused here
  std::int64_t moe_inter_dim = 0;  ///< I
  bool norm_topk_prob = false;
  bool softmax_before_topk = false;
  bool router_bias = false;
  bool expert_bias = false;
  ActivationKind expert_activation = ActivationKind::swiglu;
  double activation_alpha = 1.702;
  double activation_limit = 7.0;
  double swiglu_limit = 0.0;
  bool apply_router_weight_after_down = false;
  bool router_weights_fp32 = false;
  bool router_weight_uses_score_correction_bias = false;
  DType dtype = DType::bfloat16;
  std::optional<DType> gate_dtype;  ///< storage of the gate's weight and bias; none = dtype
  bool shared_expert_gate = false;
  std::optional<std::int64_t> shared_expert_inter_dim;
  ActivationKind shared_expert_activation = ActivationKind::swiglu;
  bool force_e_score_correction_bias = false;
  std::optional<std::int64_t> moe_latent_size;
  bool enable_routing_replay = false;
  // Conventions that the documented system does not have (SPEC 10).
  NormDenominator norm_denominator = NormDenominator::sum_plus_eps;
  double norm_eps = 1e-20;
  Top1Norm norm_at_top1 = Top1Norm::none;
  GroupScore group_score = GroupScore::by_score_func;
  DiscardedGroups discarded_groups = DiscardedGroups::by_score_func;
  double logit_scale = 1.0;
  double logit_cap = 0.0;  ///< 0 = none
  WeightFormat weight_format = WeightFormat::none;
  ActivationFormat activation_format = ActivationFormat::none;  ///< with a weight_format
  Accumulator accumulator = Accumulator::float32;               ///< with an activation_format
  NullSlots null_slots = NullSlots::given;
  SelectionScores selection_scores = SelectionScores::by_score_func;
  bool router_weight_on_input = false;
  bool per_expert_scale = false;
  bool clamp_after_activation = false;  ///< of swiglu
  bool centred_bias_update = false;
  AuxLossFactor aux_loss_factor = AuxLossFactor::experts_over_k;
  std::int64_t aux_loss_sequences = 1;
  double z_loss_coeff = 0.0;         ///< 0 = none
  double capacity_factor = 0.0;      ///< 0 = none
  std::int64_t min_capacity = 0;     ///< with capacity_factor
  std::int64_t expert_capacity = 0;  ///< the capacity itself; 0 = none
  CapacityOrder capacity_order = CapacityOrder::token;
  bool norm_after_dropping = false;
  AuxLossCounts aux_loss_counts = AuxLossCounts::every_choice;
  bool aux_loss_accumulated = false;
  std::int64_t n_identity_experts = 0;  ///< of n_routed_experts, the last ones
  std::int64_t n_always_selected = 0;   ///< likewise, and of n_activated_experts
  double sinkhorn_tolerance = 1e-4;
  bool router_input_norm = false;
  double router_input_norm_eps = 1e-6;
  bool router_jitter = false;
  double situ_beta = 4.0;                     ///< of the activation situ: what bounds silu's factor g
  double situ_linear_beta = 25.0;             ///< and the up half; 0 = nothing bounds it
  LatentNorm latent_norm = LatentNorm::none;  ///< with moe_latent_size
  double latent_norm_eps = 1e-5;
  std::optional<DType> expert_compute_dtype;  ///< in which routed experts work; none = that of their tokens
  BiasUpdateRule bias_update_rule = BiasUpdateRule::sign_of_load;
  double bias_update_ema = 0.0;    ///< the share of the bias that an update by quantiles keeps
  double batch_loss_coeff = 0.0;   ///< of an auxiliary loss of all tokens as one sequence; 0 = none
  double global_loss_coeff = 0.0;  ///< of one that adds earlier micro-batches' loads; 0 = none

  /// The experts that have parameters, which come before those that return their input.
  std::int64_t experts_with_weights() const { return n_routed_experts - n_identity_experts; }
  /// D': the width in which experts work, the latent size where there is one.
  std::int64_t expert_dim() const { return moe_latent_size.value_or(dim); }
  bool quantises_activations() const { return activation_format != ActivationFormat::none; }
  bool gated_experts() const { return facts(expert_activation).gated; }
  /// Columns of gate_and_up_projs: 2I, or I without a gate.
  std::int64_t up_dim() const { return gated_experts() ? 2 * moe_inter_dim : moe_inter_dim; }
  /// The two matrices of each expert: gate_and_up_projs and down_projs.
  ExpertsShape up_shape() const { return {experts_with_weights(), expert_dim(), up_dim()}; }
  ExpertsShape down_shape() const { return {experts_with_weights(), moe_inter_dim, expert_dim()}; }
  DType gate_param_dtype() const { return gate_dtype.value_or(dtype); }
  bool has_correction_bias() const { return gate_bias_update_factor > 0.0 || force_e_score_correction_bias; }
  /// The id of a null slot.
  std::int64_t null_id() const { return null_slots == NullSlots::n_routed_experts ? n_routed_experts : -1; }
  /// Whether experts are selected within groups.
  bool grouped() const {
    return n_expert_groups > 1 && (uses_groups(score_func) || group_score != GroupScore::by_score_func);
  }
  /// Whether scores are made of other numbers than the logits themselves.
  bool maps_logits() const { return logit_scale != 1.0 || logit_cap > 0.0; }
  /// Whether the selection orders logits, plus the correction bias where the score function takes one.
  bool selects_logits() const {
    return facts(score_func).selects_by_logits || selection_scores == SelectionScores::logits;
  }
  /// Whether what a token chooses depends on the other tokens.
  bool balances_selection(bool training) const {
    return training && selection_scores == SelectionScores::sinkhorn;
  }
  /// The experts that scores are ordered to choose from, the first ones.
  std::int64_t choosable_experts() const { return n_routed_experts - n_always_selected; }
  /// How many of a group's largest selection scores add up to the group's score.
  std::int64_t summed_per_group() const {
    if (group_score == GroupScore::largest) return 1;
    if (group_score == GroupScore::top2_sum) return 2;
    if (group_score == GroupScore::topk_over_g_sum) return n_activated_experts / n_limited_groups;
    return facts(score_func).groups != GroupRule::max_or_top2 || has_correction_bias() ? 2 : 1;
  }
  /// Whether experts of discarded groups score 0, else minus infinity.
  bool discards_to_zero() const {
    if (discarded_groups != DiscardedGroups::by_score_func) return discarded_groups == DiscardedGroups::zero;
    return facts(score_func).groups != GroupRule::top2_exclude;
  }
  /// Whether the weights of a token are divided by their sum, and whether S is, which the auxiliary loss
  /// sees.
  bool normalises_weights() const {
    return norm_topk_prob && (n_activated_experts > 1 || norm_at_top1 == Top1Norm::weights_and_scores);
  }
  bool normalises_scores() const {
    return norm_topk_prob && (n_activated_experts > 1 || norm_at_top1 != Top1Norm::none);
  }
  /// Whether an expert takes a limited number of slots.
  bool drops_slots() const { return capacity_factor > 0.0 || expert_capacity > 0; }
  /// Whether weights are divided by the sum over the slots that are kept.
  bool divides_after_dropping() const { return norm_after_dropping && drops_slots() && normalises_weights(); }
  /// The slots that an expert takes of so many tokens, where it drops any.
  std::int64_t capacity(std::int64_t tokens) const;
  /// Whether gradients depend on all tokens of a call in training.
  bool has_loss() const { return has_load_loss() || z_loss_coeff > 0.0; }
  /// Whether there is any of the three losses by expert load.
  bool has_load_loss() const {
    return aux_loss_coeff > 0.0 || batch_loss_coeff > 0.0 || global_loss_coeff > 0.0;
  }
  MoEConfig without_losses() const;
  /// Whether one of them adds loads of earlier micro-batches.
  bool adds_earlier_loads() const {
    return (aux_loss_coeff > 0.0 && aux_loss_accumulated) || global_loss_coeff > 0.0;
  }
  /// The slots of a token that the auxiliary loss counts.
  std::int64_t aux_loss_counted() const {
    return aux_loss_counts == AuxLossCounts::first_choice ? 1 : n_activated_experts;
  }
  /// What loads of the auxiliary loss are divided by, beside the number of tokens.
  std::int64_t aux_loss_slots() const {
    return aux_loss_factor == AuxLossFactor::experts ? 1 : aux_loss_counted();
  }
  /// Width of the shared experts' MLP.
  std::int64_t shared_dim() const {
    return n_shared_experts * shared_expert_inter_dim.value_or(moe_inter_dim);
  }
  /// Whether a token's routed sum is normalised, so that what reaches an expert's output depends on the
  /// others'.
  bool normalises_routed() const { return latent_norm == LatentNorm::before_fc2; }

  friend bool operator==(const MoEConfig&, const MoEConfig&) = default;
};

/// Sets the coefficient of every loss in a layer's config to none.
void leave_out_losses(nlohmann::json& config);

/// The arguments of the documented MLP's constructor.
struct MLPConfig {
  std::int64_t dim = 0;
  std::int64_t inter_dim = 0;
  DType dtype = DType::float32;                        ///< what the recorded cases mean when they do not say
  ActivationKind activation = ActivationKind::swiglu;  ///< swiglu or relu2; or situ
  bool bias = false;
  double swiglu_limit = 0.0;
  // Of the activation situ, which the documented MLP does not have (SPEC 10).
  double situ_beta = 4.0;
  double situ_linear_beta = 25.0;
};

/// The MLP that a layer's shared experts are.
MLPConfig shared_experts_config(const MoEConfig& config);

/// How a modelled multi-rank call spreads its work (SPEC 8). One rank = no parallelism. At most one size is
/// above 1.
struct ParallelOptions {
  std::int64_t ep_size = 1;                   ///< experts, moe: expert-parallel ranks; must divide E
  std::int64_t cp_size = 1;                   ///< gate, moe: context-parallel ranks of the auxiliary loss
  std::int64_t dp_size = 1;                   ///< bias_update: data-parallel ranks that sum their loads
  std::vector<std::int64_t> tokens_per_rank;  ///< counts that sum to T; empty = as even as possible
  std::string exchange = "all_gather";        ///< or "all_to_all"

  std::int64_t size() const { return std::max({ep_size, cp_size, dp_size}); }
};

/// How a component is called; the fields that a component does not know are errors when they are set in JSON.
struct CallOptions {
  std::optional<DType> gate_precision;
  Float32Products float32_products = Float32Products::float32;
  bool training = true;
  bool fake_balanced_gate = false;
  double fake_gate_noise = 0.0;  ///< in moe; "noise" in fake_balanced_gate
  std::int64_t skip_first_n_experts = 0;
  double aux_loss_backward_scale = 1.0;  ///< the main-loss backward scale
  std::int64_t steps = 1;                ///< bias_update: rounds
  std::int64_t micro_batches = 1;        ///< bias_update: forwards per round
  double init_std = 0.02;
  double fill_before = 0.0;                     ///< init: what every parameter holds before
  std::optional<std::uint64_t> torch_cpu_seed;  ///< init: PyTorch's CPU generator
  std::optional<std::uint64_t> seed;            ///< init: our counter-based generator
  ParallelOptions parallel;
};

/// Throw InputError naming the field, its value and what would be right: unknown field, wrong type, missing
/// field, impossible combination (SPEC: E % G != 0, g > G, k > E, k > g E / G, a top-2 group score in groups
/// of one, k < 1, non-positive sizes, unknown names, a bias update without train_gate, ...).
MoEConfig parse_moe_config(const nlohmann::json& json);
MLPConfig parse_mlp_config(const nlohmann::json& json);
CallOptions parse_call_options(const nlohmann::json& json);

/// The fields with a default appear only where they differ from it.
nlohmann::json to_json(const MoEConfig& config);
nlohmann::json to_json(const MLPConfig& config);

/// Every field under its documented name, so that its reader need not know defaults. A field without a value
/// is null.
nlohmann::json full_json(const MoEConfig& config);
nlohmann::json full_json(const MLPConfig& config);
nlohmann::json full_json(const CallOptions& options);

}  // namespace moeref
