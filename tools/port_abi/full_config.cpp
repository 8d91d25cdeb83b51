#include "tools/port_abi/full_config.hpp"

namespace moeref {
namespace {

using nlohmann::json;

template <typename T>
json or_null(const std::optional<T>& value) {
  return value ? json(*value) : json();
}

}  // namespace

json full_json(const MoEConfig& c) {
  return {{"n_routed_experts", c.n_routed_experts},
          {"n_shared_experts", c.n_shared_experts},
          {"n_activated_experts", c.n_activated_experts},
          {"n_expert_groups", c.n_expert_groups},
          {"n_limited_groups", c.n_limited_groups},
          {"train_gate", c.train_gate},
          {"gate_bias_update_factor", c.gate_bias_update_factor},
          {"aux_loss_coeff", c.aux_loss_coeff},
          {"score_func", name(c.score_func)},
          {"route_scale", c.route_scale},
          {"dim", c.dim},
          {"inter_dim", c.inter_dim},
          {"moe_inter_dim", c.moe_inter_dim},
          {"norm_topk_prob", c.norm_topk_prob},
          {"softmax_before_topk", c.softmax_before_topk},
          {"router_bias", c.router_bias},
          {"expert_bias", c.expert_bias},
          {"expert_activation", name(c.expert_activation)},
          {"activation_alpha", c.activation_alpha},
          {"activation_limit", c.activation_limit},
          {"swiglu_limit", c.swiglu_limit},
          {"apply_router_weight_after_down", c.apply_router_weight_after_down},
          {"router_weights_fp32", c.router_weights_fp32},
          {"router_weight_uses_score_correction_bias", c.router_weight_uses_score_correction_bias},
          {"dtype", name(c.dtype)},
          {"gate_dtype", c.gate_dtype ? json(name(*c.gate_dtype)) : json()},
          {"shared_expert_gate", c.shared_expert_gate},
          {"shared_expert_inter_dim", or_null(c.shared_expert_inter_dim)},
          {"shared_expert_activation", name(c.shared_expert_activation)},
          {"force_e_score_correction_bias", c.force_e_score_correction_bias},
          {"moe_latent_size", or_null(c.moe_latent_size)},
          {"enable_routing_replay", c.enable_routing_replay}};
}

json full_json(const MLPConfig& c) {
  return {{"dim", c.dim},           {"inter_dim", c.inter_dim},
          {"dtype", name(c.dtype)}, {"activation", name(c.activation)},
          {"bias", c.bias},         {"swiglu_limit", c.swiglu_limit}};
}

json full_json(const CallOptions& o) {
  return {{"gate_precision", o.gate_precision ? json(name(*o.gate_precision)) : json()},
          {"training", o.training},
          {"fake_balanced_gate", o.fake_balanced_gate},
          {"fake_gate_noise", o.fake_gate_noise},
          {"skip_first_n_experts", o.skip_first_n_experts},
          {"aux_loss_backward_scale", o.aux_loss_backward_scale},
          {"steps", o.steps},
          {"micro_batches", o.micro_batches},
          {"init_std", o.init_std},
          {"fill_before", o.fill_before},
          {"torch_cpu_seed", or_null(o.torch_cpu_seed)},
          {"seed", or_null(o.seed)},
          {"ep_size", o.parallel.ep_size},
          {"cp_size", o.parallel.cp_size},
          {"dp_size", o.parallel.dp_size},
          {"tokens_per_rank", o.parallel.tokens_per_rank},
          {"exchange", o.parallel.exchange}};
}

}  // namespace moeref
