// Ports that read the conventions of slots and experts (SPEC 10) wrongly.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"

namespace moeref {
namespace {

Tensor* given_ids_of(Call& call) {
  for (const char* name : {"inputs/indices", "inputs/replay_indices"})
    if (const auto found = call.tensors.find(name); found != call.tensors.end()) return &found->second;
  return nullptr;
}

/// The call with an expert in each null slot of a convention, without the ids that it has in its outputs.
NamedTensors with_experts_in_null_slots(Implementation& sound, const Call& call,
                                        std::int64_t (*expert)(std::int64_t experts)) {
  if (!call.config.contains("null_slots")) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  Call other = call;
  Tensor* ids = given_ids_of(other);
  if (!ids) return sound.run(call);
  const Tensor before = *ids;
  for (std::int64_t& id : ids->as<std::int64_t>())
    if (id == c.null_id()) id = expert(c.n_routed_experts);
  NamedTensors out = sound.run(other);
  if (out.contains("outputs/indices")) out["outputs/indices"] = before;
  return out;
}

NamedTensors null_slot_is_last_expert(Implementation& sound, const Call& call) {
  return with_experts_in_null_slots(sound, call, [](std::int64_t experts) { return experts - 1; });
}

NamedTensors null_slot_is_first_expert(Implementation& sound, const Call& call) {
  return with_experts_in_null_slots(sound, call, [](std::int64_t) { return std::int64_t{0}; });
}

/// The weights of a replay with null slots, scaled to k experts.
NamedTensors null_slots_in_the_mean(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || !call.config.contains("null_slots")) return out;
  const MoEConfig c = parse_moe_config(call.config);
  const Tensor ids = out.at("outputs/indices");
  change(out, "outputs/weights", [&](std::int64_t i, double value) {
    const std::int64_t k = c.n_activated_experts, first = i - i % k;
    double live = 0.0;
    for (std::int64_t j = first; j < first + k; ++j) live += ids[j] != static_cast<double>(c.null_id());
    return value * live / static_cast<double>(k);
  });
  return out;
}

/// The experts call with a field of the config replaced where the call has it.
NamedTensors experts_with(Implementation& sound, const Call& call, const char* field,
                          const nlohmann::json& fields) {
  if (!is(call, Component::experts) || !call.config.contains(field)) return sound.run(call);
  Call other = call;
  other.config.erase(field);
  other.config.update(fields);
  return sound.run(other);
}

NamedTensors weight_never_on_input(Implementation& sound, const Call& call) {
  return experts_with(sound, call, "router_weight_on_input", nlohmann::json::object());
}

NamedTensors weight_after_down_for_input(Implementation& sound, const Call& call) {
  return experts_with(sound, call, "router_weight_on_input", {{"apply_router_weight_after_down", true}});
}

NamedTensors weight_on_input_has_no_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::experts) && call.config.contains("router_weight_on_input"))
    change(out, "grads/weights", [](std::int64_t, double) { return 0.0; });
  return out;
}

/// The call with another activation in the place of this one, which has the same columns.
NamedTensors with_activation(Implementation& sound, const Call& call, std::string_view from,
                             std::string_view to) {
  if (!is(call, Component::experts) || call.config.value("expert_activation", "") != from)
    return sound.run(call);
  Call other = call;
  other.config["expert_activation"] = to;
  return sound.run(other);
}

NamedTensors erf_gelu_by_tanh(Implementation& sound, const Call& call) {
  return with_activation(sound, call, "geglu_erf", "geglu");
}

NamedTensors plain_gelu_by_tanh(Implementation& sound, const Call& call) {
  return with_activation(sound, call, "gelu", "gelu_tanh");
}

NamedTensors plain_silu_is_relu2(Implementation& sound, const Call& call) {
  return with_activation(sound, call, "silu", "relu2");
}

NamedTensors plain_relu_squares(Implementation& sound, const Call& call) {
  return with_activation(sound, call, "relu", "relu2");
}

/// A situ call of experts or of an MLP with other fields.
NamedTensors situ_with(Implementation& sound, const Call& call, const nlohmann::json& fields) {
  const char* field = is(call, Component::mlp) ? "activation" : "expert_activation";
  if (!is_one_of(call, {Component::experts, Component::mlp}) || call.config.value(field, "") != "situ")
    return sound.run(call);
  Call other = call;
  other.config.update(fields);
  return sound.run(other);
}

NamedTensors situ_is_swiglu(Implementation& sound, const Call& call) {
  return situ_with(sound, call, {{is(call, Component::mlp) ? "activation" : "expert_activation", "swiglu"}});
}

/// A layer's results with its shared experts' share of y taken from an MLP with other fields.
NamedTensors shared_situ_with(Implementation& sound, const Call& call, const nlohmann::json& fields) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || call.config.value("shared_expert_activation", "") != "situ" ||
      call.config.value("shared_expert_gate", false) || call.config.at("n_shared_experts") == 0)
    return out;
  Call mlp{Component::mlp,
           to_json(shared_experts_config(parse_moe_config(call.config))),
           options_of_products(call),
           {},
           false};
  mlp.tensors["inputs/x"] = call.tensors.at("inputs/x");
  const std::string prefix = "params/shared_experts.";
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with(prefix)) mlp.tensors["params/" + name.substr(prefix.size())] = tensor;
  const Tensor right = sound.run(mlp).at("outputs/y");
  mlp.config.update(fields);
  const Tensor wrong = sound.run(mlp).at("outputs/y");
  change(out, "outputs/y", [&](std::int64_t i, double y) { return y - right[i] + wrong[i]; });
  return out;
}

NamedTensors shared_situ_is_swiglu(Implementation& sound, const Call& call) {
  return shared_situ_with(sound, call, {{"activation", "swiglu"}});
}

NamedTensors shared_situ_with_usual_bounds(Implementation& sound, const Call& call) {
  return shared_situ_with(sound, call, {{"situ_beta", 4.0}, {"situ_linear_beta", 25.0}});
}

NamedTensors situ_bounds_no_up(Implementation& sound, const Call& call) {
  return situ_with(sound, call, {{"situ_linear_beta", 0.0}});
}

NamedTensors situ_with_usual_bounds(Implementation& sound, const Call& call) {
  return situ_with(sound, call, {{"situ_beta", 4.0}, {"situ_linear_beta", 25.0}});
}

/// As if tanh passed gradients on.
std::pair<double, double> situ_passes_slope(const MoEConfig& c, double g, double u) {
  const auto [by_gate, by_up] = activation_slope(c, g, u);
  if (c.expert_activation != ActivationKind::situ || c.situ_linear_beta == 0.0) return {by_gate, by_up};
  const double t = std::tanh(u / c.situ_linear_beta), slope = 1.0 - t * t;
  return {by_gate, slope > 0.0 ? by_up / slope : by_up};
}
NamedTensors situ_up_slope_left_out(Implementation& sound, const Call& call) {
  return with_parts(sound, call, {.slope = situ_passes_slope});
}

NamedTensors clamp_before_activation(Implementation& sound, const Call& call) {
  return experts_with(sound, call, "clamp_after_activation", nlohmann::json::object());
}

bool has_identity_experts(const Call& call) {
  return is(call, Component::experts) && call.config.contains("n_identity_experts");
}
bool of_identity(const MoEConfig& c, double id) {
  return id >= static_cast<double>(c.experts_with_weights()) && id < static_cast<double>(c.n_routed_experts);
}

/// The call with other ids in the slots of experts without parameters.
Call with_identity_slots(Call call, std::int64_t (*other)(std::int64_t id, const MoEConfig& config)) {
  const MoEConfig c = parse_moe_config(call.config);
  for (std::int64_t& id : call.tensors.at("inputs/indices").as<std::int64_t>())
    if (of_identity(c, static_cast<double>(id))) id = other(id, c);
  return call;
}

NamedTensors identity_gives_nothing(Implementation& sound, const Call& call) {
  if (!has_identity_experts(call)) return sound.run(call);
  return sound.run(with_identity_slots(
      call, [](std::int64_t, const MoEConfig& c) -> std::int64_t { return c.null_id(); }));
}

NamedTensors identity_ids_wrap(Implementation& sound, const Call& call) {
  if (!has_identity_experts(call)) return sound.run(call);
  return sound.run(with_identity_slots(
      call, [](std::int64_t id, const MoEConfig& c) { return id % c.experts_with_weights(); }));
}

NamedTensors identity_unweighted(Implementation& sound, const Call& call) {
  if (!has_identity_experts(call)) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  Call other = call;
  const Tensor& ids = call.tensors.at("inputs/indices");
  map_input(other, "inputs/weights",
            [&](std::int64_t i, double w) { return of_identity(c, ids[i]) ? 1.0 : w; });
  return sound.run(other);
}

NamedTensors identity_weight_has_no_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_identity_experts(call)) return out;
  const MoEConfig c = parse_moe_config(call.config);
  const Tensor& ids = call.tensors.at("inputs/indices");
  change(out, "grads/weights", [&](std::int64_t i, double d) { return of_identity(c, ids[i]) ? 0.0 : d; });
  return out;
}

NamedTensors identity_input_has_no_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (has_identity_experts(call) && call.backward)
    out["grads/x"] = identity_gives_nothing(sound, call).at("grads/x");
  return out;
}

/// x is added before tokens are dispatched, where the mask is not looked at.
NamedTensors identity_of_padding(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  if (!has_identity_experts(call) || !mask) return out;
  const MoEConfig c = parse_moe_config(call.config);
  const Tensor &ids = call.tensors.at("inputs/indices"), &x = call.tensors.at("inputs/x"),
               &p = call.tensors.at("inputs/weights");
  change(out, "outputs/y", [&](std::int64_t i, double y) {
    const std::int64_t token = i / x.extent(1), k = c.n_activated_experts;
    if ((*mask)[token] != 0.0) return y;
    for (std::int64_t slot = token * k; slot < (token + 1) * k; ++slot)
      if (of_identity(c, ids[slot])) y += p[slot] * x[i];
    return y;
  });
  return out;
}

}  // namespace

std::span<const Mutant> slot_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "null_slot_is_last_expert",
       .source = "an index of -1 counts from the end in NumPy and PyTorch",
       .components = {Component::gate, Component::experts},
       .does = "a null slot is worked on by the last expert",
       .first_wrong = "stages/up_projection outputs/y outputs/weights outputs/expert_load",
       .property = "null_slots",
       .run = null_slot_is_last_expert},
      {.name = "null_slot_is_first_expert",
       .components = {Component::gate, Component::experts},
       .does = "the id of a null slot is clamped to the experts that there are",
       .first_wrong = "stages/up_projection outputs/y outputs/weights outputs/expert_load",
       .property = "null_slots",
       .run = null_slot_is_first_expert},
      {.name = "null_slots_in_the_mean",
       .components = {Component::gate},
       .does = "the other slots' weights shrink as if null slots had some",
       .first_wrong = "outputs/weights",
       .property = "null_slots",
       .run = null_slots_in_the_mean},
      {.name = "identity_gives_nothing",
       .source = "an expert back end that skips the ids past its last expert",
       .components = {Component::experts},
       .does = "an expert without parameters gives nothing",
       .first_wrong = "stages/down_projection outputs/y",
       .property = "identity_experts",
       .run = identity_gives_nothing},
      {.name = "identity_ids_wrap",
       .components = {Component::experts},
       .does = "ids past the last expert with parameters begin anew at the first",
       .first_wrong = "stages/up_projection outputs/y",
       .property = "identity_experts",
       .run = identity_ids_wrap},
      {.name = "identity_unweighted",
       .components = {Component::experts},
       .does = "an expert without parameters returns its input without the routing weight",
       .first_wrong = "stages/down_projection outputs/y",
       .property = "identity_experts",
       .run = identity_unweighted},
      {.name = "identity_weight_has_no_gradient",
       .components = {Component::experts},
       .does = "the routing weight of an expert without parameters is taken for a constant",
       .shows = "G",
       .first_wrong = "grads/weights",
       .property = "identity_experts",
       .run = identity_weight_has_no_gradient},
      {.name = "identity_input_has_no_gradient",
       .components = {Component::experts},
       .does = "no gradient of x passes an expert without parameters",
       .shows = "G",
       .first_wrong = "grads/x",
       .property = "identity_experts",
       .run = identity_input_has_no_gradient},
      {.name = "identity_of_padding",
       .components = {Component::experts},
       .does = "masked tokens pass experts without parameters",
       .first_wrong = "outputs/y",
       .property = "identity_experts",
       .run = identity_of_padding},
      {.name = "weight_never_on_input",
       .components = {Component::experts},
       .does = "the routing weight multiplies the activation where it belongs on the input",
       .first_wrong = "stages/up_projection outputs/y",
       .property = "weight_on_input",
       .run = weight_never_on_input},
      {.name = "weight_after_down_for_input",
       .components = {Component::experts},
       .does = "the routing weight multiplies the expert's output where it belongs on the input",
       .first_wrong = "stages/up_projection outputs/y",
       .property = "weight_on_input",
       .run = weight_after_down_for_input},
      {.name = "weight_on_input_has_no_gradient",
       .components = {Component::experts},
       .does = "a routing weight on the input is taken for a constant",
       .shows = "G",
       .first_wrong = "grads/weights",
       .property = "weight_on_input",
       .run = weight_on_input_has_no_gradient},
      {.name = "erf_gelu_by_tanh",
       .source = "SGLang has tanh in one path and erf in another",
       .components = {Component::experts},
       .does = "the gate's GELU is its approximation by tanh where erf is asked for",
       .shows = "FP",
       .first_wrong = "stages/activation outputs/y",
       .property = "activations_beyond",
       .run = erf_gelu_by_tanh,
       .not_in_bfloat16 = "tanh's approximation of GELU is within a rounding of bfloat16"},
      {.name = "plain_gelu_by_tanh",
       .components = {Component::experts},
       .does = "GELU without a gate is its approximation by tanh",
       .shows = "FP",
       .first_wrong = "stages/activation outputs/y",
       .property = "activations_beyond",
       .run = plain_gelu_by_tanh,
       .not_in_bfloat16 = "tanh's approximation of GELU is within a rounding of bfloat16"},
      {.name = "plain_silu_is_relu2",
       .components = {Component::experts},
       .does = "every activation without a gate is relu2",
       .first_wrong = "stages/activation outputs/y",
       .property = "activations_beyond",
       .run = plain_silu_is_relu2},
      {.name = "plain_relu_squares",
       .components = {Component::experts},
       .does = "ReLU is squared",
       .first_wrong = "stages/activation outputs/y",
       .property = "activations_beyond",
       .run = plain_relu_squares},
      {.name = "situ_is_swiglu",
       .source = "Kimi K3 in a stack whose experts know SwiGLU alone",
       .components = {Component::experts, Component::mlp},
       .does = "situ is swiglu: neither half is bounded",
       .first_wrong = "stages/activation outputs/y",
       .property = "situ_values",
       .run = situ_is_swiglu},
      {.name = "situ_bounds_no_up",
       .components = {Component::experts, Component::mlp},
       .does = "situ bounds the gate's factor, but not the up half",
       .first_wrong = "stages/activation outputs/y",
       .property = "situ_values",
       .run = situ_bounds_no_up},
      {.name = "situ_with_usual_bounds",
       .components = {Component::experts, Component::mlp},
       .does = "situ has the bounds of Kimi K3, 4 and 25, whatever the config says",
       .first_wrong = "stages/activation outputs/y",
       .property = "situ_values",
       .run = situ_with_usual_bounds},
      {.name = "shared_situ_is_swiglu",
       .components = {Component::moe},
       .does = "shared experts whose activation is situ are swiglu",
       .first_wrong = "outputs/y",
       .property = "shared_situ",
       .run = shared_situ_is_swiglu},
      {.name = "shared_situ_with_usual_bounds",
       .components = {Component::moe},
       .does = "situ of shared experts has the bounds of Kimi K3, 4 and 25, whatever the config says",
       .first_wrong = "outputs/y",
       .property = "shared_situ",
       .run = shared_situ_with_usual_bounds},
      {.name = "situ_up_slope_left_out",
       .components = {Component::experts},
       .does = "the gradient of situ's up half lacks the slope of tanh",
       .first_wrong = "grads/*",
       .property = "situ_gradients",
       .run = situ_up_slope_left_out},
      {.name = "clamp_before_activation",
       .source = "transformers 5.24 step3p7 clamps after it",
       .components = {Component::experts},
       .does = "the gate is clamped where silu of it should be",
       .first_wrong = "stages/activation outputs/y",
       .property = "clamps_after_activation",
       .run = clamp_before_activation},
  };
  return kRows;
}

}  // namespace moeref
