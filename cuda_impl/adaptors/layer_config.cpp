#include "cuda_impl/adaptors/layer_config.hpp"

#include <iterator>
#include <string_view>
#include <utility>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "cuda_impl/gate/score.cuh"
#include "moeref/weight_format.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref::cuda {
namespace {

/// "softmax" for ScoreFunction::softmax and ScoreFunc::softmax.
template <auto Value>
constexpr std::string_view enumerator() {
  constexpr std::string_view before = "Value = ";
  std::string_view text = __PRETTY_FUNCTION__;
  text.remove_prefix(text.find(before) + before.size());
  text = text.substr(0, text.find_first_of(";]"));
  return text.substr(text.rfind(':') + 1);
}

/// The enumerator of the CUDA components that has the name of the call's: theirs are the first `Count` of
/// `All`. Names that differ do not compile.
template <class Here, class Name, std::size_t Count, std::size_t All = Count>
constexpr Here of_same_name(Name value) {
  static_assert(has_enumerators<Here, All>() && has_enumerators<Name, Count>());
  static_assert([]<std::size_t... I>(std::index_sequence<I...>) {
    return ((enumerator<static_cast<Here>(I)>() == enumerator<static_cast<Name>(I)>()) && ...);
  }(std::make_index_sequence<Count>{}));
  return static_cast<Here>(value);
}

}  // namespace

Activation activation_of(ActivationKind kind) {
  static_assert(kDocumentedActivationCount == kDocumentedActivations);
  return of_same_name<Activation, ActivationKind, kActivations.size(), kActivationCount>(kind);
}

GateConfig gate_config(const MoEConfig& c, const CallOptions& o, std::int64_t tokens, DataType x_type,
                       DataType parameter_type) {
  GateConfig g{};
  g.tokens = tokens;
  g.dim = static_cast<int>(c.dim);
  g.experts = static_cast<int>(c.n_routed_experts);
  g.slots = static_cast<int>(c.n_activated_experts);
  g.score_function = of_same_name<ScoreFunction, ScoreFunc, kScoreRows.size()>(c.score_func);
  g.groups = static_cast<int>(c.n_expert_groups);
  g.limited_groups = static_cast<int>(c.n_limited_groups);
  g.softmax_before_topk = c.softmax_before_topk;
  g.norm_topk_prob = c.norm_topk_prob;
  g.route_scale = c.route_scale;
  g.weight_uses_correction = c.router_weight_uses_score_correction_bias;
  g.weights_fp32 = c.router_weights_fp32;
  if (o.gate_precision) g.precision = data_type(*o.gate_precision);
  g.x_type = x_type;
  g.parameter_type = parameter_type;
  g.training = o.training;
  g.aux_loss_coeff = c.aux_loss_coeff;
  g.aux_loss_backward_scale = o.aux_loss_backward_scale;
  g.norm_at_most = c.norm_denominator == NormDenominator::max_of_sum_and_eps;
  g.norm_eps = c.norm_eps;
  g.norm_top1_weights = c.norm_at_top1 == Top1Norm::weights_and_scores;
  g.norm_top1_scores = c.norm_at_top1 != Top1Norm::none;
  if (c.group_score != GroupScore::by_score_func) g.group_sum = static_cast<int>(c.summed_per_group());
  if (c.discarded_groups != DiscardedGroups::by_score_func) g.discards_to_zero = c.discards_to_zero();
  g.logit_scale = c.logit_scale;
  g.logit_cap = c.logit_cap;
  g.selects_logits = c.selection_scores == SelectionScores::logits;
  g.always_selected = static_cast<int>(c.n_always_selected);
  g.capacity = {
      c.expert_capacity, c.capacity_factor, c.min_capacity,
      of_same_name<CapacityOrder, moeref::CapacityOrder, std::size(kCapacityOrders)>(c.capacity_order)};
  g.norm_after_dropping = c.norm_after_dropping;
  g.null_id = static_cast<int>(c.null_id());
  g.loss_over_slots = c.aux_loss_factor == AuxLossFactor::experts_over_k;
  g.per_expert_scale = c.per_expert_scale;
  g.z_loss_coeff = c.z_loss_coeff;
  g.loss_first_choice = c.aux_loss_counts == AuxLossCounts::first_choice;
  g.loss_sequences = static_cast<int>(c.aux_loss_sequences);
  g.loss_accumulated = c.aux_loss_accumulated;
  g.batch_loss_coeff = c.batch_loss_coeff;
  g.global_loss_coeff = c.global_loss_coeff;
  g.balances = c.selection_scores == SelectionScores::sinkhorn;
  g.sinkhorn_tolerance = c.sinkhorn_tolerance;
  g.router_jitter = c.router_jitter;
  g.router_input_norm = c.router_input_norm;
  g.router_input_norm_eps = c.router_input_norm_eps;
  return g;
}

DataType experts_type(const MoEConfig& c, DataType tokens) {
  return c.expert_compute_dtype ? data_type(*c.expert_compute_dtype) : tokens;
}

ExpertsConfig experts_config(const MoEConfig& c, std::int64_t tokens, DataType type, ExpertsPath path) {
  const bool swiglu = c.expert_activation == ActivationKind::swiglu,
             situ = c.expert_activation == ActivationKind::situ;
  return {
      tokens,
      static_cast<int>(c.expert_dim()),
      static_cast<int>(c.moe_inter_dim),
      static_cast<int>(c.experts_with_weights()),
      static_cast<int>(c.n_activated_experts),
      swiglu && c.clamp_after_activation && c.swiglu_limit > 0.0 ? Activation::swiglu_clamped_after
                                                                 : activation_of(c.expert_activation),
      {static_cast<float>(situ ? c.situ_beta : c.activation_alpha),
       static_cast<float>(swiglu ? c.swiglu_limit
                          : situ ? c.situ_linear_beta
                                 : c.activation_limit)},
      c.apply_router_weight_after_down,
      type,
      path,
      of_same_name<WeightFormat, moeref::WeightFormat, kWeightFormatCount>(c.weight_format),
      0,
      0,
      c.router_weight_on_input,
      of_same_name<ActivationFormat, moeref::ActivationFormat, kActivationFormatCount>(c.activation_format),
      static_cast<int>(c.n_identity_experts),
      of_same_name<Accumulator, moeref::Accumulator, kAccumulatorCount>(c.accumulator)};
}

MLPConfig mlp_config(const moeref::MLPConfig& c, std::int64_t tokens, DataType type) {
  return {tokens,
          static_cast<int>(c.dim),
          static_cast<int>(c.inter_dim),
          activation_of(c.activation),
          static_cast<float>(c.swiglu_limit),
          type,
          static_cast<float>(c.situ_beta),
          static_cast<float>(c.situ_linear_beta)};
}

LayerConfig layer_config(const MoEConfig& c, const CallOptions& o, std::int64_t tokens, DataType type,
                         DataType gate_type, ExpertsPath path) {
  LayerConfig out;
  out.gate = gate_config(c, o, tokens, type, gate_type);
  out.experts = experts_config(c, tokens, experts_type(c, type), path);
  out.latent = c.moe_latent_size.has_value();
  out.latent_norm = of_same_name<LatentNorm, moeref::LatentNorm, std::size(kLatentNorms)>(c.latent_norm);
  out.latent_norm_eps = c.latent_norm_eps;
  out.fake_balanced_gate = o.fake_balanced_gate;
  out.fake_gate_noise = o.fake_gate_noise;
  if (c.n_shared_experts > 0) {
    out.shared_inter_dim = static_cast<int>(c.shared_dim());
    out.shared_activation = activation_of(c.shared_expert_activation);
    out.shared_swiglu_limit = static_cast<float>(c.swiglu_limit);
    out.shared_situ_beta = static_cast<float>(c.situ_beta);
    out.shared_situ_linear_beta = static_cast<float>(c.situ_linear_beta);
    out.shared_gate = c.shared_expert_gate;
  }
  return out;
}

}  // namespace moeref::cuda
