#include "reference_cpu/verdict/reduced_call.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string_view>

#include "moeref/config.hpp"
#include "moeref/signature.hpp"
#include "reference_cpu/call/tokens.hpp"
#include "reference_cpu/components/activation.hpp"

namespace moeref {
namespace {

/// Losses are of all tokens of a call, and a part of it has none.
void leave_out_losses(Call& call) {
  moeref::leave_out_losses(call.config);
  call.tensors.erase("inputs/accumulated_expert_load");
}

using Indices = std::vector<std::int64_t>;

/// All of a shape, but for the coordinates of one axis.
TensorPart along(Shape whole, std::size_t axis, Indices at) {
  TensorPart out{std::move(whole), {}};
  out.axes.resize(out.whole.size());
  out.axes[axis] = std::move(at);
  return out;
}

/// A tensor by tokens as [tokens, columns], a mask as [tokens].
Shape by_token(std::string_view name, const Shape& shape, std::int64_t tokens) {
  return name.ends_with("mask") ? Shape{tokens} : Shape{tokens, shape.back()};
}

void set_options_of_one_rank(Call& call) {
  for (const char* option : {"ep_size", "cp_size", "dp_size", "tokens_per_rank", "exchange"})
    call.options.erase(option);
}

void take_tokens(Call& call, std::int64_t tokens, const Indices& order) {
  for (const std::string_view name : kTokenInputs)
    if (const auto found = call.tensors.find(name); found != call.tensors.end())
      found->second = along(by_token(name, found->second.shape(), tokens), 0, order).of(found->second);
}

/// The tensor's part in the reduced call, and its gradient's in the results.
void take_parameter(const Call& whole, ReducedCall& out, const std::string& name, const TensorPart& part) {
  out.call.tensors["params/" + name] = part.of(require(whole.tensors, "params/" + name));
  if (whole.backward) out.results["grads/" + name] = {part, 0};
}

/// The columns of h that these units have, gates before the others unless they are interleaved.
Indices columns_of(const Activation& act, const Indices& units, std::int64_t width) {
  const auto count = static_cast<std::int64_t>(units.size());
  Indices out(static_cast<std::size_t>(act.gated() ? 2 * count : count));
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t unit = units[static_cast<std::size_t>(i)];
    out[static_cast<std::size_t>(act.up_column(i, count))] = act.up_column(unit, width);
    if (act.gated()) out[static_cast<std::size_t>(act.gate_column(i, count))] = act.gate_column(unit, width);
  }
  return out;
}

/// The parameters of an MLP [out, in] with these hidden units alone.
void take_mlp_units(const Call& call, const std::string& prefix, const Indices& units, bool gated, bool bias,
                    ReducedCall& out) {
  const auto rows = [&](const std::string& name) {
    const Tensor& tensor = require(call.tensors, "params/" + prefix + name);
    take_parameter(call, out, prefix + name, along(tensor.shape(), 0, units));
  };
  for (const char* side : {"gate_proj", "up_proj"}) {
    if (!gated && side == std::string_view("gate_proj")) continue;
    rows(std::string(side) + ".weight");
    if (bias) rows(std::string(side) + ".bias");
  }
  const std::string down = prefix + "down_proj.weight", down_bias = prefix + "down_proj.bias";
  take_parameter(call, out, down, along(require(call.tensors, "params/" + down).shape(), 1, units));
  if (bias)
    take_parameter(call, out, down_bias,
                   {require(call.tensors, "params/" + down_bias).shape(), {std::nullopt}});
}

ReducedCall empty_copy(const Call& call) {
  return {{call.component, call.config, call.options, {}, call.backward}, {}};
}

/// x, the cotangent and the mask as they are.
void keep_inputs(const Call& call, ReducedCall& out) {
  for (const std::string_view name : kTokenInputs)
    if (const Tensor* tensor = find(call.tensors, name)) out.call.tensors[std::string(name)] = *tensor;
}

}  // namespace

Shape TensorPart::shape() const {
  Shape out = whole;
  for (std::size_t axis = 0; axis < axes.size(); ++axis)
    if (axes[axis]) out[axis] = static_cast<std::int64_t>(axes[axis]->size());
  return out;
}

std::int64_t TensorPart::whole_index(std::int64_t index) const {
  const Shape part = shape();
  std::int64_t out = 0, stride = 1;
  for (std::size_t axis = part.size(); axis-- > 0; index /= part[axis], stride *= whole[axis]) {
    const std::int64_t at = index % part[axis];
    out += stride * (axes[axis] ? (*axes[axis])[static_cast<std::size_t>(at)] : at);
  }
  return out;
}

Tensor TensorPart::of(const Tensor& tensor) const {
  Tensor out(tensor.dtype(), shape());
  if (out.size() == 0) return out;
  // Elements that lie side by side in both are copied at once.
  std::int64_t run = 1;
  for (std::size_t axis = axes.size(); axis-- > 0 && !axes[axis];) run *= whole[axis];
  const auto bytes = static_cast<std::size_t>(run) * size_of(tensor.dtype());
  for (std::int64_t first = 0; first < out.size(); first += run)
    std::memcpy(out.bytes().data() + static_cast<std::size_t>(first / run) * bytes,
                tensor.bytes().data() + static_cast<std::size_t>(whole_index(first) / run) * bytes, bytes);
  return out;
}

bool can_be_reduced(const Call& call) {
  const CallOptions options = parse_call_options(call.options);
  if (options.parallel.size() > 1 || options.fake_balanced_gate) return false;
  if (call.component == Component::mlp) return true;
  const MoEConfig config = parse_moe_config(call.config);
  // Where slots are dropped or choices balanced, those of a token depend on other tokens'. Where routed sums
  // are normalised, what reaches an expert depends on the others'.
  if (call.component != Component::experts &&
      (config.drops_slots() || config.balances_selection(options.training)))
    return false;
  if (call.component == Component::gate) return true;
  return has_routed_experts(call.component) && config.weight_format == WeightFormat::none &&
         config.n_identity_experts == 0 && !(call.component == Component::moe && config.normalises_routed());
}

ReducedCall reduce_to_tokens(const Call& call, std::span<const std::int64_t> tokens) {
  const std::int64_t all = token_count(call);
  const Indices order(tokens.begin(), tokens.end());
  ReducedCall out{call, {}};
  set_options_of_one_rank(out.call);
  if (call.component != Component::mlp) leave_out_losses(out.call);
  take_tokens(out.call, all, order);
  for (const TensorSpec& spec : signature(call).outputs)
    if (std::ranges::find(kTokenResults, spec.name) != kTokenResults.end())
      out.results[spec.name] = {along(by_token(spec.name, spec.shape, all), 0, order), 0};
  return out;
}

Call with_cotangent_at(const Call& call, std::span<const std::int64_t> tokens) {
  Call out = call;
  if (call.component != Component::mlp) leave_out_losses(out);
  const std::int64_t all = token_count(call);
  for (const char* name : {"cotangents/y", "cotangents/weights"}) {
    const auto found = out.tensors.find(name);
    if (found == out.tensors.end()) continue;
    const Tensor dense = std::move(found->second);
    found->second = Tensor(dense.dtype(), dense.shape());
    const std::size_t row = dense.bytes().size() / static_cast<std::size_t>(std::max<std::int64_t>(all, 1));
    for (const std::int64_t t : tokens)
      std::memcpy(found->second.bytes().data() + static_cast<std::size_t>(t) * row,
                  dense.bytes().data() + static_cast<std::size_t>(t) * row, row);
  }
  return out;
}

Call with_copies(const Call& call, std::span<const std::int64_t> order) {
  Call out = call;
  if (call.component != Component::mlp) leave_out_losses(out);
  for (const std::string_view name : kTokenInputs) {
    const auto found = out.tensors.find(name);
    if (found == out.tensors.end() || order.empty()) continue;
    const Tensor& from = require(call.tensors, std::string(name));
    const std::size_t row = from.bytes().size() / order.size();
    for (std::size_t t = 0; t < order.size(); ++t)
      std::memcpy(found->second.bytes().data() + t * row,
                  from.bytes().data() + static_cast<std::size_t>(order[t]) * row, row);
  }
  return out;
}

ReducedCall reduce_mlp_to_units(const Call& call, std::vector<std::int64_t> units) {
  const MLPConfig c = parse_mlp_config(call.config);
  ReducedCall out = empty_copy(call);
  keep_inputs(call, out);
  out.call.config["inter_dim"] = units.size();
  take_mlp_units(call, "", units, facts(c.activation).gated, c.bias, out);
  return out;
}

ReducedCall reduce_to_expert(const Call& call, const Tensor& ids, std::int64_t expert,
                             std::vector<std::int64_t> units) {
  const MoEConfig c = parse_moe_config(call.config);
  const bool layer = call.component == Component::moe;
  const std::int64_t k = ids.extent(1), all = token_count(call), width = c.moe_inter_dim;
  const std::vector<bool> live = live_tokens(call);
  // A layer's weights are those of all slots of a token. Given weights are one row per slot.
  Indices tokens, slots;
  for (std::int64_t slot = 0; slot < ids.size(); ++slot) {
    if (ids.as<std::int64_t>()[static_cast<std::size_t>(slot)] != expert ||
        !live[static_cast<std::size_t>(slot / k)])
      continue;
    slots.push_back(slot);
    if (!layer || tokens.empty() || tokens.back() != slot / k) tokens.push_back(slot / k);
  }
  ReducedCall out = empty_copy(call);
  set_options_of_one_rank(out.call);
  out.call.config["moe_inter_dim"] = units.size();
  const auto rows = static_cast<std::int64_t>(tokens.size());
  for (const char* name : {"inputs/x", "inputs/router_noise", "cotangents/y"})
    if (const Tensor* tensor = find(call.tensors, name))
      out.call.tensors[name] = along(by_token(name, tensor->shape(), all), 0, tokens).of(*tensor);
  if (layer) {
    out.call.config["n_shared_experts"] = 0;
    leave_out_losses(out.call);
    out.call.config["enable_routing_replay"] = true;
    out.call.tensors["inputs/replay_indices"] = along(ids.shape(), 0, tokens).of(ids);
    for (const auto& [name, tensor] : call.tensors)
      if (name.starts_with("params/gate.") || name.starts_with("params/fc") ||
          name == "params/latent_norm.weight")
        out.call.tensors[name] = tensor;
  } else {
    out.call.config["n_routed_experts"] = out.call.config["n_activated_experts"] = 1;
    out.call.config["n_expert_groups"] = out.call.config["n_limited_groups"] = 1;
    for (const char* field : {"n_always_selected", "bias_update_rule"}) out.call.config.erase(field);
    out.call.tensors["inputs/indices"] = Tensor(DType::int64, {rows, 1});
    const Tensor& weights = require(call.tensors, "inputs/weights");
    out.call.tensors["inputs/weights"] = along({weights.size(), 1}, 0, slots).of(weights);
  }

  const std::string prefix = layer ? "experts." : "";
  const Indices columns = columns_of(activation(c.expert_activation), units, width);
  const auto take = [&](const std::string& name, std::size_t axis, const std::optional<Indices>& at) {
    const Tensor& tensor = require(call.tensors, "params/" + prefix + name);
    TensorPart part = along(tensor.shape(), 0, {expert});
    if (at) part.axes[axis] = at;
    Tensor own = part.of(tensor);
    if (!layer) {
      out.call.tensors["params/" + prefix + name] = std::move(own);
      if (call.backward) out.results["grads/" + name] = {part, 0};
      return;
    }
    // In its place among all experts, which the gate knows by their number; the others are zero.
    Shape shape = own.shape();
    shape[0] = c.n_routed_experts;
    Tensor among(tensor.dtype(), shape);
    std::ranges::copy(own.bytes(),
                      among.bytes().begin() + static_cast<std::ptrdiff_t>(own.bytes().size()) * expert);
    out.call.tensors["params/" + prefix + name] = std::move(among);
    if (call.backward) out.results["grads/" + prefix + name] = {part, part.size() * expert};
  };
  take("gate_and_up_projs", 2, columns);
  take("down_projs", 1, units);
  if (c.expert_bias) {
    take("gate_up_proj_bias", 1, columns);
    take("down_proj_bias", 1, std::nullopt);
  }
  return out;
}

ReducedCall reduce_to_shared_units(const Call& call, std::vector<std::int64_t> units) {
  const MoEConfig c = parse_moe_config(call.config);
  ReducedCall out = empty_copy(call);
  set_options_of_one_rank(out.call);
  // A routed part of one expert that gives nothing.
  nlohmann::json& config = out.call.config;
  for (const char* one : {"n_routed_experts", "n_activated_experts", "n_expert_groups", "n_limited_groups",
                          "moe_inter_dim", "n_shared_experts"})
    config[one] = 1;
  config["score_func"] = "softmax";
  config["shared_expert_inter_dim"] = units.size();
  leave_out_losses(out.call);
  config["gate_bias_update_factor"] = 0.0;
  config["router_bias"] = config["force_e_score_correction_bias"] = config["enable_routing_replay"] = false;
  for (const char* field :
       {"moe_latent_size", "latent_norm", "n_always_selected", "router_jitter", "bias_update_rule"})
    config.erase(field);
  for (const char* name : {"inputs/x", "cotangents/y"})
    if (const Tensor* tensor = find(call.tensors, name)) out.call.tensors[name] = *tensor;
  for (const TensorSpec& spec : signature(out.call).inputs)
    if (spec.required && !find(out.call.tensors, spec.name))
      out.call.tensors[spec.name] = Tensor(spec.dtype, spec.shape);
  take_mlp_units(call, "shared_experts.", units, facts(c.shared_expert_activation).gated, c.expert_bias, out);
  if (c.shared_expert_gate)
    out.call.tensors["params/shared_expert_gate.weight"] =
        require(call.tensors, "params/shared_expert_gate.weight");
  return out;
}

}  // namespace moeref
