#include "moeref/signature.hpp"

#include <algorithm>
#include <array>

#include "moeref/config.hpp"
#include "moeref/error.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

constexpr std::string_view kAccumulatedLoad = "inputs/accumulated_expert_load";

/// Collects specs; every function below adds the tensors of one component under a prefix.
struct Builder {
  Signature out;
  bool backward = false;

  void input(std::string name, DType dtype, Shape shape, bool required = true) {
    out.inputs.push_back({"inputs/" + name, dtype, std::move(shape), required});
  }
  /// A parameter, with a gradient of its own dtype where it is trained.
  void param(const std::string& name, DType dtype, const Shape& shape, bool trained = true) {
    out.inputs.push_back({"params/" + name, dtype, shape, true});
    if (backward && trained) out.outputs.push_back({"grads/" + name, dtype, shape, true});
  }
  void output(std::string name, DType dtype, Shape shape, bool required = true) {
    out.outputs.push_back({"outputs/" + name, dtype, std::move(shape), required});
  }
  void cotangent(std::string name, DType dtype, Shape shape) {
    if (backward) out.inputs.push_back({"cotangents/" + name, dtype, std::move(shape), true});
  }
  void grad(std::string name, DType dtype, Shape shape) {
    if (backward) out.outputs.push_back({"grads/" + name, dtype, std::move(shape), true});
  }
};

void linear(Builder& b, const std::string& name, DType dtype, std::int64_t out, std::int64_t in, bool bias) {
  b.param(name + ".weight", dtype, {out, in});
  if (bias) b.param(name + ".bias", dtype, {out});
}

void mlp_params(Builder& b, const std::string& prefix, const MLPConfig& c) {
  if (facts(c.activation).gated) linear(b, prefix + "gate_proj", c.dtype, c.inter_dim, c.dim, c.bias);
  linear(b, prefix + "up_proj", c.dtype, c.inter_dim, c.dim, c.bias);
  linear(b, prefix + "down_proj", c.dtype, c.dim, c.inter_dim, c.bias);
}

void gate_params(Builder& b, const std::string& prefix, const MoEConfig& c) {
  b.param(prefix + "weight", c.gate_param_dtype(), {c.n_routed_experts, c.dim}, c.train_gate);
  if (c.router_bias) b.param(prefix + "bias", c.gate_param_dtype(), {c.n_routed_experts}, c.train_gate);
  if (c.has_correction_bias())
    b.param(prefix + "e_score_correction_bias", DType::float32, {c.n_routed_experts}, false);
  if (c.per_expert_scale)
    b.param(prefix + "per_expert_scale", c.gate_param_dtype(), {c.n_routed_experts}, c.train_gate);
  if (c.router_input_norm) b.param(prefix + "input_scale", c.gate_param_dtype(), {c.dim}, c.train_gate);
}

/// Quantised weights are not trained.
void expert_matrices(Builder& b, const std::string& name, const MoEConfig& c, const ExpertsShape& shape) {
  if (c.weight_format == WeightFormat::none) {
    b.param(name, c.dtype, {shape.experts, shape.k, shape.n});
    return;
  }
  for (const StoredWeights& stored : stored_weights(c.weight_format, shape))
    b.param(name + std::string(stored.suffix), stored.dtype, stored.shape, false);
}

void experts_params(Builder& b, const std::string& prefix, const MoEConfig& c) {
  const std::int64_t e = c.experts_with_weights();
  expert_matrices(b, prefix + "gate_and_up_projs", c, c.up_shape());
  expert_matrices(b, prefix + "down_projs", c, c.down_shape());
  if (!c.expert_bias) return;
  b.param(prefix + "gate_up_proj_bias", c.dtype, {e, c.up_dim()});
  b.param(prefix + "down_proj_bias", c.dtype, {e, c.expert_dim()});
}

void moe_params(Builder& b, const MoEConfig& c, const CallOptions& o) {
  if (!o.fake_balanced_gate) gate_params(b, "gate.", c);
  experts_params(b, "experts.", c);
  if (c.n_shared_experts > 0) {
    mlp_params(b, "shared_experts.", shared_experts_config(c));
    if (c.shared_expert_gate) linear(b, "shared_expert_gate", c.dtype, 1, c.dim, false);
  }
  if (c.moe_latent_size) {
    linear(b, "fc1_latent_proj", c.dtype, *c.moe_latent_size, c.dim, c.expert_bias);
    linear(b, "fc2_latent_proj", c.dtype, c.dim, *c.moe_latent_size, c.expert_bias);
    if (c.latent_norm != LatentNorm::none) b.param("latent_norm.weight", c.dtype, {*c.moe_latent_size});
  }
}

/// Loads of earlier micro-batches, for a loss that adds them.
void accumulated_load(Builder& b, const MoEConfig& c, bool added) {
  if (added) b.input("accumulated_expert_load", DType::int64, {c.n_routed_experts});
}

/// The losses of a training call with a gate of its own.
void losses(Builder& b, const MoEConfig& c) {
  if (c.aux_loss_coeff > 0.0) b.output("aux_loss", DType::float32, {});
  if (c.batch_loss_coeff > 0.0) b.output("batch_loss", DType::float32, {});
  if (c.global_loss_coeff > 0.0) b.output("global_loss", DType::float32, {});
  if (c.z_loss_coeff > 0.0) b.output("z_loss", DType::float32, {});
}

void gate(Builder& b, const MoEConfig& c, const CallOptions& o, std::int64_t t) {
  const DType weights = c.router_weights_fp32 ? DType::float32 : c.dtype;
  const Shape slots{t, c.n_activated_experts};
  b.input("x", c.dtype, {t, c.dim});
  b.input("token_mask", DType::boolean, {t}, false);
  b.input("replay_indices", DType::int64, slots, false);
  accumulated_load(b, c, o.training && c.adds_earlier_loads());
  gate_params(b, "", c);
  b.cotangent("weights", weights, slots);
  b.output("weights", weights, slots);
  b.output("indices", DType::int64, slots);
  if (c.drops_slots()) b.output("dispatched_indices", DType::int64, slots);
  if (c.router_jitter) b.input("router_noise", c.dtype, {t, c.dim});
  b.output("expert_load", DType::int64, {c.n_routed_experts});
  if (o.training) losses(b, c);
  b.grad("x", c.dtype, {t, c.dim});
}

void aux_loss(Builder& b, const MoEConfig& c, std::int64_t t) {
  const Shape scores{t, c.n_routed_experts};
  b.input("original_scores", c.dtype, scores);
  b.input("token_mask", DType::boolean, {t}, false);
  b.input("indices", DType::int64, {t, c.n_activated_experts});
  accumulated_load(b, c, c.aux_loss_accumulated);
  b.output("expert_load", DType::int64, {c.n_routed_experts});
  b.output("aux_loss", DType::float32, {});
  b.grad("original_scores", c.dtype, scores);
}

void bias_update(Builder& b, MoEConfig c, const CallOptions& o, std::int64_t t) {
  c.per_expert_scale = false;  // there are no weights
  gate_params(b, "", c);
  for (std::int64_t s = 0; s < o.steps; ++s) {
    for (std::int64_t m = 0; m < o.micro_batches; ++m) {
      const std::string at = "_" + std::to_string(s) + "_" + std::to_string(m);
      b.input("x" + at, c.dtype, {t, c.dim});
      b.input("token_mask" + at, DType::boolean, {t}, false);
      b.input("replay_indices" + at, DType::int64, {t, c.n_activated_experts}, false);
      b.output("indices" + at, DType::int64, {t, c.n_activated_experts});
    }
    const std::string at = "_" + std::to_string(s);
    b.output("cumulative_expert_load" + at, DType::int64, {c.n_routed_experts});
    b.output("e_score_correction_bias" + at, DType::float32, {c.n_routed_experts});
  }
}

void fake_balanced_gate(Builder& b, const MoEConfig& c, std::int64_t t) {
  b.input("x", c.dtype, {t, c.dim});
  b.input("token_mask", DType::boolean, {t}, false);
  b.output("weights", c.dtype, {t, c.n_activated_experts});
  b.output("indices", DType::int64, {t, c.n_activated_experts});
}

void mlp(Builder& b, const MLPConfig& c, const Shape& tokens) {
  Shape x = tokens;
  x.push_back(c.dim);
  b.input("x", c.dtype, x);
  mlp_params(b, "", c);
  b.cotangent("y", c.dtype, x);
  b.output("y", c.dtype, x);
  b.grad("x", c.dtype, x);
}

void experts(Builder& b, const MoEConfig& c, std::int64_t t) {
  const Shape x{t, c.expert_dim()};
  const Shape slots{t, c.n_activated_experts};
  const DType weights = c.router_weights_fp32 ? DType::float32 : c.dtype;
  b.input("x", c.dtype, x);
  b.input("token_mask", DType::boolean, {t}, false);
  b.input("weights", weights, slots);
  b.input("indices", DType::int64, slots);
  experts_params(b, "", c);
  b.cotangent("y", c.dtype, x);
  b.output("y", c.dtype, x);
  b.grad("x", c.dtype, x);
  b.grad("weights", weights, slots);
}

void moe(Builder& b, const MoEConfig& c, const CallOptions& o, const Shape& tokens) {
  const std::int64_t t = element_count(tokens);
  const Shape slots{t, c.n_activated_experts};
  Shape x = tokens;
  x.push_back(c.dim);
  b.input("x", c.dtype, x);
  b.input("padding_mask", DType::boolean, tokens, false);
  b.input("replay_indices", DType::int64, slots, false);
  accumulated_load(b, c, o.training && c.adds_earlier_loads() && !o.fake_balanced_gate);
  moe_params(b, c, o);
  b.cotangent("y", c.dtype, x);
  if (c.router_jitter && !o.fake_balanced_gate) b.input("router_noise", c.dtype, x);
  b.output("y", c.dtype, x);
  b.output("weights", c.router_weights_fp32 && !o.fake_balanced_gate ? DType::float32 : c.dtype, slots,
           false);
  // One token's choice may drop another's slot: results can be judged on the port's own choices alone.
  const bool drops = c.drops_slots() && !o.fake_balanced_gate;
  b.output("indices", DType::int64, slots,
           drops || (c.balances_selection(o.training) && !o.fake_balanced_gate));
  if (drops) b.output("dispatched_indices", DType::int64, slots);
  b.output("expert_load", DType::int64, {c.n_routed_experts}, false);
  if (o.training && !o.fake_balanced_gate) losses(b, c);
  b.grad("x", c.dtype, x);
}

/// The parameters of moe, as outputs; of quantised weights, the numbers that are quantised afterwards.
void init(Builder& b, MoEConfig c, const CallOptions& o) {
  Builder params;
  c.weight_format = WeightFormat::none;
  moe_params(params, c, o);
  for (const TensorSpec& spec : params.out.inputs)
    b.output(spec.name.substr(std::string("params/").size()), spec.dtype, spec.shape);
}

void metrics(Builder& b, const MoEConfig& c, const Shape& tokens) {
  const std::int64_t layers = element_count(tokens);
  b.input("expert_load", DType::int64, {layers, c.n_routed_experts});
  for (const char* per_layer : {"cv", "dead_expert_frac", "expert_diversity"})
    b.output(per_layer, DType::float64, {layers});
  b.output("expert_utilization", DType::float64, {layers, c.n_routed_experts});
  for (const char* aggregate :
       {"cv_mean", "cv_median", "cv_min", "cv_max", "expert_utilization_p25", "expert_utilization_median",
        "expert_utilization_p75", "expert_utilization_min", "expert_utilization_max", "dead_expert_frac_mean",
        "expert_diversity_mean", "expert_diversity_min"})
    b.output(aggregate, DType::float64, {});
}

/// What a signature is made for.
struct Asked {
  const nlohmann::json& config;
  CallOptions options;
  const Shape& tokens;
  std::int64_t count() const { return element_count(tokens); }
  MoEConfig moe() const { return parse_moe_config(config); }
};

struct SignatureRow {
  Component kind;
  void (*build)(Builder& builder, const Asked& asked);
};
constexpr auto kSignatureRows = std::to_array<SignatureRow>({
    {Component::gate, [](Builder& b, const Asked& a) { gate(b, a.moe(), a.options, a.count()); }},
    {Component::aux_loss, [](Builder& b, const Asked& a) { aux_loss(b, a.moe(), a.count()); }},
    {Component::bias_update,
     [](Builder& b, const Asked& a) { bias_update(b, a.moe(), a.options, a.count()); }},
    {Component::fake_balanced_gate,
     [](Builder& b, const Asked& a) { fake_balanced_gate(b, a.moe(), a.count()); }},
    {Component::mlp, [](Builder& b, const Asked& a) { mlp(b, parse_mlp_config(a.config), a.tokens); }},
    {Component::experts, [](Builder& b, const Asked& a) { experts(b, a.moe(), a.count()); }},
    {Component::moe, [](Builder& b, const Asked& a) { moe(b, a.moe(), a.options, a.tokens); }},
    {Component::init, [](Builder& b, const Asked& a) { init(b, a.moe(), a.options); }},
    {Component::metrics, [](Builder& b, const Asked& a) { metrics(b, a.moe(), a.tokens); }},
});
static_assert(has_row_per_enumerator<kSignatureRows>());

/// The shape of the component's token input without its last axis.
Shape token_shape(const Call& call) {
  const std::string_view from = facts(call.component).token_input;
  if (from.empty()) return {};
  const Tensor& x = require(call.tensors, from);
  if (x.shape().empty())
    throw InputError("dataset '" + std::string(from) + "' is a scalar: want [..., width]");
  return {x.shape().begin(), x.shape().end() - 1};
}

/// Loads are counts. Accumulated ones enter a float32 sum.
void check_load(const Tensor& load, const std::string& name) {
  double sum = 0.0, least = 0.0;
  for (std::int64_t i = 0; i < load.size(); ++i) {
    sum += load[i];
    least = std::min(least, load[i]);
  }
  const bool accumulated = name == kAccumulatedLoad;
  if (least < 0.0 || (accumulated && sum >= 0x1p24))
    throw InputError("dataset '" + name + "': want counts of 0 or more" +
                     (accumulated ? " that sum to less than 2^24" : ""));
}

/// Replayed slots have experts, unless null_slots says otherwise.
void check_indices(const Tensor& indices, std::string_view name, const MoEConfig& c) {
  const bool replayed = name.find("replay") != std::string_view::npos;
  const bool may_be_null = !replayed || c.null_slots != NullSlots::given;
  for (std::int64_t i = 0; i < indices.size(); ++i) {
    const auto id = static_cast<std::int64_t>(indices[i]);
    if ((id >= 0 && id < c.n_routed_experts) || (may_be_null && id == c.null_id())) continue;
    throw InputError("dataset '" + std::string(name) + "' holds the expert id " + std::to_string(id) +
                     ": want 0 to " + std::to_string(c.n_routed_experts - 1) +
                     (may_be_null ? ", or " + std::to_string(c.null_id()) + " for no expert"
                                  : ", an expert for every slot"));
  }
}

}  // namespace

Signature signature(Component component, const nlohmann::json& config, const nlohmann::json& options,
                    const Shape& tokens, bool backward) {
  const Asked asked{config, parse_call_options(options), tokens};
  Builder b;
  b.backward = backward && facts(component).has_backward;
  kSignatureRows[static_cast<std::size_t>(component)].build(b, asked);
  return std::move(b.out);
}

Signature signature(const Call& call) {
  return signature(call.component, call.config, call.options, token_shape(call), call.backward);
}

void check_inputs(const Call& call) {
  const Signature want = signature(call);
  for (const TensorSpec& spec : want.inputs) {
    const Tensor* tensor = find(call.tensors, spec.name);
    if (!tensor) {
      // The cotangent of the auxiliary loss is 1 where none is given; all other inputs must be there.
      if (spec.required) throw InputError("missing dataset '" + spec.name + "'");
      continue;
    }
    if (tensor->shape() != spec.shape)
      throw InputError("dataset '" + spec.name + "' has shape " + to_string(tensor->shape()) + ": want " +
                       to_string(spec.shape));
    if (is_floating(spec.dtype) != is_floating(tensor->dtype()) ||
        (!is_floating(spec.dtype) && spec.dtype != tensor->dtype()))
      throw InputError("dataset '" + spec.name + "' has dtype " + std::string(name(tensor->dtype())) +
                       ": want " + (is_floating(spec.dtype) ? "a floating one such as " : "") +
                       std::string(name(spec.dtype)));
    if (spec.name == kAccumulatedLoad || spec.name == "inputs/expert_load") check_load(*tensor, spec.name);
    if (spec.name.find("indices") != std::string::npos)
      check_indices(*tensor, spec.name, parse_moe_config(call.config));
  }
  for (const auto& [name, tensor] : call.tensors) {
    const bool known = std::ranges::any_of(
        want.inputs, [&name = name](const TensorSpec& spec) { return spec.name == name; });
    if (!known)
      throw InputError("dataset '" + name + "' belongs to no input of this " +
                       std::string(moeref::name(call.component)) + " call");
  }
}

}  // namespace moeref
