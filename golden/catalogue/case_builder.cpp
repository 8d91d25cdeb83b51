#include "golden/catalogue/case_builder.hpp"

#include "golden/catalogue/case_margin.hpp"
#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"

namespace moeref {
namespace {

/// The tensor's name without its group and, for bias_update, without the numbers of its round.
std::string_view base_name(std::string_view tensor) {
  tensor.remove_prefix(tensor.find('/') + 1);
  for (const std::string_view stem : {"x_", "token_mask_", "replay_indices_"})
    if (tensor.starts_with(stem)) return stem.substr(0, stem.size() - 1);
  return tensor;
}

DataRole role_of(Component component, std::string_view tensor) {
  const std::string_view base = base_name(tensor);
  if (tensor.starts_with("cotangents/")) return DataRole::cotangents;
  if (tensor.starts_with("params/")) {
    if (base.ends_with("e_score_correction_bias")) return DataRole::correction_bias;
    const bool gate = component == Component::gate || component == Component::bias_update;
    if (base == "gate.weight" || (gate && base == "weight")) return DataRole::gate_weight;
    if (base == "gate.bias" || (gate && base == "bias")) return DataRole::router_bias;
    if (base.ends_with("gate_proj.bias")) return DataRole::gate_bias;
    return base.ends_with("bias") ? DataRole::biases : DataRole::params;
  }
  if (base == "token_mask" || base == "padding_mask") return DataRole::mask;
  if (base == "replay_indices") return DataRole::replay;
  if (base == "indices") return DataRole::indices;
  if (base == "weights") return DataRole::weights;
  if (base == "original_scores") return DataRole::scores;
  if (base == "expert_load" || base == "accumulated_expert_load") return DataRole::loads;
  return DataRole::x;
}

/// Length of the inner products that a parameter enters: Linear weights are [out, in], experts' matrices [E,
/// in, out].
std::int64_t fan_in(const Shape& shape) { return shape.size() < 2 ? 1 : std::max<std::int64_t>(1, shape[1]); }

/// Inputs, cotangents and the weights that stand in x's dtype take the case's; those kept in fp32 stay.
DType dtype_of(const CaseSpec& spec, const TensorSpec& tensor, const std::optional<MoEConfig>& config) {
  const bool weights = tensor.name == "inputs/weights" || tensor.name == "cotangents/weights";
  const bool fixed = tensor.name.starts_with("params/") || !is_floating(tensor.dtype) ||
                     (weights && config && config->router_weights_fp32);
  return fixed ? tensor.dtype : spec.x_dtype.value_or(tensor.dtype);
}

/// The columns of gate_up_proj_bias that feed the gate half, drawn by their own choice.
void draw_gate_bias(const CaseSpec& spec, const MoEConfig& config, const std::string& tensor, Tensor& bias) {
  if (!spec.data.contains(DataRole::gate_bias) || !config.gated_experts()) return;
  const Tensor gate = draw_reals(choice_of(spec.data, DataRole::gate_bias), {spec.seed, tensor + " gate"},
                                 bias.dtype(), {config.experts_with_weights(), config.moe_inter_dim}, 1);
  const bool interleaved = facts(config.expert_activation).interleaved;
  for (std::int64_t i = 0; i < gate.size(); ++i) {
    const std::int64_t expert = i / config.moe_inter_dim, column = i % config.moe_inter_dim;
    bias.set(expert * config.up_dim() + (interleaved ? 2 * column : column), gate[i]);
  }
}

Tensor draw_mask(const DataChoice& choice, const DataStream& stream, const Shape& shape,
                 bool true_is_masked) {
  const std::vector<bool> masked = draw_masked_tokens(choice, stream, shape);
  Tensor out(DType::boolean, shape);
  for (std::size_t t = 0; t < masked.size(); ++t)
    out.set(static_cast<std::int64_t>(t), masked[t] == true_is_masked ? 1.0 : 0.0);
  return out;
}

void draw(const CaseSpec& spec, const TensorSpec& tensor, const std::optional<MoEConfig>& config,
          Call& call) {
  const DataRole role = role_of(spec.component, tensor.name);
  const DataChoice choice = choice_of(spec.data, role);
  if (choice.kind == "absent") return;
  const DataStream stream{spec.seed, tensor.name};
  Tensor& out = call.tensors[tensor.name];
  switch (role) {
    case DataRole::mask:
      out = draw_mask(choice, stream, tensor.shape, tensor.name == "inputs/padding_mask");
      return;
    case DataRole::indices:
    case DataRole::replay:
      out = draw_ids(choice, stream, tensor.shape[0], tensor.shape[1], config->n_routed_experts);
      for (std::int64_t& id : out.as<std::int64_t>())
        if (id < 0) id = config->null_id();
      return;
    case DataRole::loads:
      out = draw_loads(choice, stream, tensor.shape);
      return;
    default:
      break;
  }
  out = draw_reals(choice, stream, dtype_of(spec, tensor, config), tensor.shape, fan_in(tensor.shape));
  if (tensor.name == "inputs/router_noise")  // about 1, as jitter is
    for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, 1.0 + out[i] / 8.0);
  if (tensor.name.ends_with("gate_up_proj_bias")) draw_gate_bias(spec, *config, tensor.name, out);
}

/// Of quantised weights, the numbers are drawn that a case without the field has, and then quantised.
Call build_quantised_call(CaseSpec spec, const MoEConfig& c) {
  for (const char* field : {"weight_format", "activation_format", "accumulator"}) spec.config.erase(field);
  return quantized_call(build_call(spec), c.weight_format, c.activation_format, c.accumulator);
}

}  // namespace

Call build_call(const CaseSpec& spec) {
  try {
    if (spec.tokens.empty() && spec.component != Component::init)
      throw InputError("lacks the field 'tokens': want [T] or [B, S]");
    Call call{spec.component, spec.config, spec.options, {}, spec.backward};
    const Signature want = signature(spec.component, spec.config, spec.options, spec.tokens, spec.backward);
    std::optional<MoEConfig> config;
    if (spec.component != Component::mlp) config = parse_moe_config(spec.config);
    if (has_routed_experts(spec.component) && config->weight_format != WeightFormat::none)
      return build_quantised_call(spec, *config);
    for (const TensorSpec& tensor : want.inputs) draw(spec, tensor, config, call);
    ensure_margin(spec, call);
    return call;
  } catch (const InputError& error) {
    throw InputError("case '" + label(spec) + "': " + error.what());
  }
}

}  // namespace moeref
