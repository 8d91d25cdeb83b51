#include "tools/judging/diagnosis.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

using nlohmann::json;

/// Inputs of more bytes than this take too long to compute a dozen times.
constexpr std::size_t kLargestInputs = 4'000'000;

/// One rule, in place of the call's own. False where the call has it already or has nothing to do with it.
struct Neighbour {
  std::string_view name;
  bool (*apply)(Call& call);
};

/// Sets a field of the config, or says that it has this value.
bool set_field(Call& call, const char* field, const json& value) {
  const json full = full_json(parse_moe_config(call.config));
  if (full.at(field) == value) return false;
  call.config[field] = value;
  return true;
}

bool routes(const Call& call) {
  return call.component == Component::gate || call.component == Component::bias_update ||
         call.component == Component::moe;
}
bool weighs(const Call& call) {
  return call.component == Component::gate || call.component == Component::moe;
}
bool has_routed_experts(const Call& call) { return moeref::has_routed_experts(call.component); }

template <bool After>
bool weight_after_down(Call& call) {
  return has_routed_experts(call) && set_field(call, "apply_router_weight_after_down", After);
}

/// The rule that the config follows, by_score_func resolved, is another one.
template <DiscardedGroups Rule>
bool discards(Call& call) {
  if (!routes(call)) return false;
  const MoEConfig c = parse_moe_config(call.config);
  if (!c.grouped() || c.discards_to_zero() == (Rule == DiscardedGroups::zero)) return false;
  return set_field(call, "discarded_groups", name(Rule));
}

template <GroupScore Rule>
bool scores_groups(Call& call) {
  if (!routes(call)) return false;
  MoEConfig c = parse_moe_config(call.config);
  if (!c.grouped()) return false;
  const std::int64_t before = c.summed_per_group();
  c.group_score = Rule;
  return c.summed_per_group() != before && set_field(call, "group_score", name(Rule));
}

template <Top1Norm Rule>
bool divides_top1(Call& call) {
  if (!weighs(call)) return false;
  const MoEConfig c = parse_moe_config(call.config);
  return c.norm_topk_prob && c.n_activated_experts == 1 && set_field(call, "norm_at_top1", name(Rule));
}

template <bool Divides>
bool divides_weights(Call& call) {
  return weighs(call) && set_field(call, "norm_topk_prob", Divides);
}

/// As a template's argument: 10^-Power, or 0.
template <int Power>
bool guards_with(Call& call) {
  constexpr std::array powers{0.0, 1e-6, 1e-9, 1e-12, 1e-15};
  if (!weighs(call) || !parse_moe_config(call.config).norm_topk_prob) return false;
  return set_field(call, "norm_eps", powers[Power]);
}

/// The gate's products and scores in this type, whatever the call asks for.
template <DType Type>
bool gate_in(Call& call) {
  if (!routes(call) || call.options.value("gate_precision", json()) == json(name(Type))) return false;
  call.options["gate_precision"] = name(Type);
  return true;
}

bool weight_on_input(Call& call) {
  if (!has_routed_experts(call) || parse_moe_config(call.config).apply_router_weight_after_down) return false;
  return set_field(call, "router_weight_on_input", true);
}

/// The correction bias is added to the logits.
bool selects_logits(Call& call) {
  return routes(call) && !parse_moe_config(call.config).selects_logits() &&
         set_field(call, "selection_scores", name(SelectionScores::logits));
}

/// The choice is made of scores, without logits or Sinkhorn's balancing.
bool selects_scores(Call& call) {
  return routes(call) && set_field(call, "selection_scores", name(SelectionScores::by_score_func));
}

bool all_compete(Call& call) { return weighs(call) && set_field(call, "n_always_selected", 0); }

bool gelu_by_erf(Call& call) {
  return has_routed_experts(call) &&
         parse_moe_config(call.config).expert_activation == ActivationKind::geglu &&
         set_field(call, "expert_activation", name(ActivationKind::geglu_erf));
}

bool clamps_after(Call& call) {
  if (!has_routed_experts(call)) return false;
  const MoEConfig c = parse_moe_config(call.config);
  return c.expert_activation == ActivationKind::swiglu && c.swiglu_limit > 0.0 &&
         set_field(call, "clamp_after_activation", true);
}

/// Of quantised weights, whose products take numbers or quantised rows.
template <ActivationFormat Format>
bool quantises_rows(Call& call) {
  return has_routed_experts(call) && set_field(call, "activation_format", name(Format));
}

/// Sums in FP8 tensor cores, of formats that they take.
bool adds_up_in_tensor_cores(Call& call) {
  return has_routed_experts(call) && set_field(call, "accumulator", name(Accumulator::e8m13_promoted128));
}

/// Operands rounded to a type that the layer's own holds, or not rounded.
template <DType Type>
bool computes_in(Call& call) {
  return has_routed_experts(call) && set_field(call, "expert_compute_dtype", name(Type));
}
bool computes_in_own_type(Call& call) {
  return has_routed_experts(call) && set_field(call, "expert_compute_dtype", nullptr);
}

bool centres_bias(Call& call) {
  return call.component == Component::bias_update && set_field(call, "centred_bias_update", true);
}

template <BiasUpdateRule Rule>
bool updates_by(Call& call) {
  return call.component == Component::bias_update && set_field(call, "bias_update_rule", name(Rule));
}

bool loss_without_k(Call& call) {
  if (!weighs(call) && call.component != Component::aux_loss) return false;
  const MoEConfig c = parse_moe_config(call.config);
  const bool lost = call.component == Component::aux_loss || c.has_load_loss();
  return lost && c.n_activated_experts > 1 &&
         set_field(call, "aux_loss_factor", name(AuxLossFactor::experts));
}

bool drops(const Call& call) { return weighs(call) && parse_moe_config(call.config).drops_slots(); }
template <CapacityOrder Order>
bool drops_by(Call& call) {
  return drops(call) && set_field(call, "capacity_order", name(Order));
}
template <bool After>
bool divides_kept(Call& call) {
  return drops(call) && parse_moe_config(call.config).normalises_weights() &&
         set_field(call, "norm_after_dropping", After);
}

bool loss_of_first_choices(Call& call) {
  if (!weighs(call) && call.component != Component::aux_loss) return false;
  return set_field(call, "aux_loss_counts", name(AuxLossCounts::first_choice));
}

/// Earlier loads that no loss adds any more are none of the call's inputs.
bool without_loss(Call& call, const char* coefficient) {
  if (!weighs(call) || !set_field(call, coefficient, 0.0)) return false;
  if (!parse_moe_config(call.config).adds_earlier_loads())
    call.tensors.erase("inputs/accumulated_expert_load");
  return true;
}
bool no_loss(Call& call) { return without_loss(call, "aux_loss_coeff"); }
bool no_batch_loss(Call& call) { return without_loss(call, "batch_loss_coeff"); }
bool no_global_loss(Call& call) { return without_loss(call, "global_loss_coeff"); }

/// A loss that adds loads of earlier micro-batches leaves them out.
bool no_earlier_loads(Call& call) {
  const auto found = call.tensors.find("inputs/accumulated_expert_load");
  if (found == call.tensors.end()) return false;
  found->second = Tensor(found->second.dtype(), found->second.shape());
  return true;
}

/// Every token counts as a real one.
bool padding_counts(Call& call) {
  std::size_t masks = 0;
  for (auto it = call.tensors.begin(); it != call.tensors.end();) {
    const bool mask = it->first.starts_with("inputs/token_mask") || it->first == "inputs/padding_mask";
    masks += mask;
    it = mask ? call.tensors.erase(it) : std::next(it);
  }
  return masks > 0;
}

bool no_jitter(Call& call) {
  return call.tensors.erase("inputs/router_noise") > 0 && set_field(call, "router_jitter", false);
}

/// Latent rows normalised at another place, or nowhere.
template <LatentNorm Place>
bool norms_latent_rows(Call& call) {
  if (call.component != Component::moe || !call.config.contains("latent_norm")) return false;
  if (Place == LatentNorm::none) call.tensors.erase("params/latent_norm.weight");
  return set_field(call, "latent_norm", name(Place));
}

bool float32_products_are_tf32(Call& call) {
  if (call.component == Component::metrics || call.component == Component::init) return false;
  if (call.options.contains("float32_products")) return false;
  call.options["float32_products"] = "tf32";
  return true;
}

constexpr std::array kNeighbours{
    Neighbour{"apply_router_weight_after_down = true", weight_after_down<true>},
    Neighbour{"apply_router_weight_after_down = false", weight_after_down<false>},
    Neighbour{"discarded_groups = minus_infinity", discards<DiscardedGroups::minus_infinity>},
    Neighbour{"discarded_groups = zero", discards<DiscardedGroups::zero>},
    Neighbour{"group_score = largest", scores_groups<GroupScore::largest>},
    Neighbour{"group_score = top2_sum", scores_groups<GroupScore::top2_sum>},
    Neighbour{"group_score = topk_over_g_sum", scores_groups<GroupScore::topk_over_g_sum>},
    Neighbour{"norm_at_top1 = weights_and_scores", divides_top1<Top1Norm::weights_and_scores>},
    Neighbour{"norm_at_top1 = scores", divides_top1<Top1Norm::scores>},
    Neighbour{"norm_topk_prob = true", divides_weights<true>},
    Neighbour{"norm_topk_prob = false", divides_weights<false>},
    Neighbour{"norm_eps = 0", guards_with<0>},
    Neighbour{"norm_eps = 1e-06", guards_with<1>},
    Neighbour{"norm_eps = 1e-09", guards_with<2>},
    Neighbour{"norm_eps = 1e-12", guards_with<3>},
    Neighbour{"norm_eps = 1e-15", guards_with<4>},
    Neighbour{"capacity_order = token", drops_by<CapacityOrder::token>},
    Neighbour{"capacity_order = choice", drops_by<CapacityOrder::choice>},
    Neighbour{"capacity_order = weight", drops_by<CapacityOrder::weight>},
    Neighbour{"norm_after_dropping = true", divides_kept<true>},
    Neighbour{"norm_after_dropping = false", divides_kept<false>},
    Neighbour{"gate_precision = float32", gate_in<DType::float32>},
    Neighbour{"gate_precision = bfloat16", gate_in<DType::bfloat16>},
    Neighbour{"router_weight_on_input = true", weight_on_input},
    Neighbour{"selection_scores = logits", selects_logits},
    Neighbour{"selection_scores = by_score_func", selects_scores},
    Neighbour{"n_always_selected = 0", all_compete},
    Neighbour{"router_jitter = false", no_jitter},
    Neighbour{"latent_norm = none", norms_latent_rows<LatentNorm::none>},
    Neighbour{"latent_norm = before_fc2", norms_latent_rows<LatentNorm::before_fc2>},
    Neighbour{"latent_norm = after_fc1", norms_latent_rows<LatentNorm::after_fc1>},
    Neighbour{"expert_activation = geglu_erf", gelu_by_erf},
    Neighbour{"clamp_after_activation = true", clamps_after},
    Neighbour{"activation_format = none", quantises_rows<ActivationFormat::none>},
    Neighbour{"activation_format = fp8_e4m3_group128", quantises_rows<ActivationFormat::fp8_e4m3_group128>},
    Neighbour{"activation_format = fp8_e4m3_group128_ue8m0",
              quantises_rows<ActivationFormat::fp8_e4m3_group128_ue8m0>},
    Neighbour{"activation_format = mxfp8", quantises_rows<ActivationFormat::mxfp8>},
    Neighbour{"activation_format = mxfp8_rceil", quantises_rows<ActivationFormat::mxfp8_rceil>},
    Neighbour{"accumulator = e8m13_promoted128", adds_up_in_tensor_cores},
    Neighbour{"expert_compute_dtype = bfloat16", computes_in<DType::bfloat16>},
    Neighbour{"expert_compute_dtype = float16", computes_in<DType::float16>},
    Neighbour{"expert_compute_dtype = null", computes_in_own_type},
    Neighbour{"centred_bias_update = true", centres_bias},
    Neighbour{"bias_update_rule = quantile", updates_by<BiasUpdateRule::quantile>},
    Neighbour{"bias_update_rule = sign_of_load", updates_by<BiasUpdateRule::sign_of_load>},
    Neighbour{"aux_loss_factor = experts", loss_without_k},
    Neighbour{"aux_loss_counts = first_choice", loss_of_first_choices},
    Neighbour{"aux_loss_coeff = 0", no_loss},
    Neighbour{"batch_loss_coeff = 0", no_batch_loss},
    Neighbour{"global_loss_coeff = 0", no_global_loss},
    Neighbour{"no earlier loads: this micro-batch's alone count", no_earlier_loads},
    Neighbour{"no mask: padding tokens count as real ones", padding_counts},
    Neighbour{"float32_products = tf32", float32_products_are_tf32},
};

bool passes_under(const Call& call, const NamedTensors& results, const JudgeOptions& options) {
  try {
    return judge(call, results, options).verdict == Verdict::pass;
  } catch (const InputError&) {
    return false;  // the rule and the call are no pair
  }
}

/// The call under one more rule.
std::optional<Call> call_under(const Neighbour& rule, Call call) {
  try {
    if (!rule.apply(call)) return std::nullopt;
    if (call.component != Component::mlp) parse_moe_config(call.config);
    return call;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

}  // namespace

std::string convention_followed(const Call& call, const NamedTensors& results, const JudgeOptions& options) {
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : call.tensors) bytes += tensor.bytes().size();
  if (bytes > kLargestInputs) return "";
  std::vector<std::pair<const Neighbour*, Call>> tried;
  for (const Neighbour& rule : kNeighbours)
    if (std::optional<Call> other = call_under(rule, call)) {
      if (passes_under(*other, results, options)) return std::string(rule.name);
      tried.emplace_back(&rule, *std::move(other));
    }
  for (const auto& [first, changed] : tried)
    for (const auto& [second, alone] : tried) {
      if (second <= first) continue;
      const std::optional<Call> both = call_under(*second, changed);
      if (both && passes_under(*both, results, options))
        return std::string(first->name) + " and " + std::string(second->name);
    }
  return "";
}

}  // namespace moeref
