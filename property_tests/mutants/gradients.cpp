// Gradients of single tensors that are scaled, transposed, or taken from the wrong place.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

/// A tensor's name as an argument of a template.
template <std::size_t N>
struct Name {
  char text[N] = {};
  constexpr Name(const char (&from)[N]) {
    for (std::size_t i = 0; i < N; ++i) text[i] = from[i];
  }
};

template <Name Tensor, int Percent>
NamedTensors times(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  change(out, Tensor.text, [](std::int64_t, double g) { return Percent / 100.0 * g; });
  return out;
}

/// The last two axes exchanged, and the memory read as if its shape were the same.
template <Name T>
NamedTensors transposed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* from = find(out, T.text);
  if (!from || from->size() == 0) return out;
  const Tensor given = *from;
  const std::int64_t cols = given.shape().back(), rows = given.shape()[given.shape().size() - 2],
                     block = rows * cols;
  change(out, T.text, [&](std::int64_t i, double) {
    const std::int64_t r = i % block / cols, c = i % cols;
    return given[i / block * block + c * rows + r];
  });
  return out;
}

/// Gradients of a parameter without the routing weight.
NamedTensors up_gradient_without_weight(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || !call.backward) return sound.run(call);
  Call ones = call;
  fill(ones, "inputs/weights", 1.0);
  return with_results_of(sound, call, ones, "grads/gate_and_up_projs");
}
NamedTensors down_gradient_without_weight(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || !call.backward) return sound.run(call);
  Call ones = call;
  fill(ones, "inputs/weights", 1.0);
  return with_results_of(sound, call, ones, "grads/down_projs");
}

NamedTensors weight_gradient_lacks_down_bias(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || !call.backward) return sound.run(call);
  Call bare = call;
  fill(bare, "params/down_proj_bias", 0.0);
  return with_results_of(sound, call, bare, "grads/weights");
}

NamedTensors masked_tokens_give_gradient(Implementation& sound, const Call& call) {
  if (!has_experts(call) || !call.backward) return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  open.tensors.erase("inputs/padding_mask");
  NamedTensors out = sound.run(call), wrong = sound.run(open);
  for (const std::string_view tensor : kExpertTensors) {
    const std::string name = expert_tensor(call.component, "grads", tensor);
    if (out.contains(name)) out[name] = wrong.at(name);
  }
  return out;
}

NamedTensors first_expert_without_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_experts(call)) return out;
  const std::string name = expert_tensor(call.component, "grads", "down_projs");
  if (out.contains(name)) change_slice(out.at(name), 0, [](double) { return 0.0; });
  return out;
}

constexpr std::string_view kDown = "grads/down_projs", kUp = "grads/gate_and_up_projs";

const Mutant kGradientMutants[] = {
    {"gate_weight_gradient_halved",
     "",
     "",
     {C::gate},
     "the gradient of the gate's weight is half as large",
     "G",
     "grads/weight",
     "central_differences",
     times<"grads/weight", 50>},
    {"gate_bias_gradient_doubled",
     "",
     "",
     {C::gate},
     "the gradient of the gate's bias is twice as large",
     "G",
     "grads/bias",
     "central_differences",
     times<"grads/bias", 200>},
    {"gate_x_gradient_lost",
     "",
     "",
     {C::gate},
     "the gate gives x no gradient",
     "G",
     "grads/x",
     "central_differences",
     times<"grads/x", 0>},
    {"gate_weight_gradient_transposed",
     "",
     "",
     {C::gate},
     "the gradient of the gate's weight is written transposed",
     "G",
     "grads/weight",
     "central_differences",
     transposed<"grads/weight">},
    {"up_gradient_transposed",
     "",
     "",
     {C::experts},
     "the gradient of the up projection is written transposed",
     "G",
     kUp,
     "central_differences",
     transposed<"grads/gate_and_up_projs">},
    {"up_gradient_scaled",
     "",
     "",
     {C::experts},
     "the gradient of the up projection is 1 % too large",
     "G",
     kUp,
     "central_differences",
     times<"grads/gate_and_up_projs", 101>},
    {"down_gradient_scaled",
     "",
     "",
     {C::experts},
     "the gradient of the down projection is 1 % too large",
     "G",
     kDown,
     "central_differences",
     times<"grads/down_projs", 101>},
    {"up_bias_gradient_lost",
     "",
     "",
     {C::experts},
     "the first bias has no gradient",
     "G",
     "grads/gate_up_proj_bias",
     "central_differences",
     times<"grads/gate_up_proj_bias", 0>},
    {"down_bias_gradient_halved",
     "",
     "",
     {C::experts},
     "the gradient of the down bias is half as large",
     "G",
     "grads/down_proj_bias",
     "linear_adjoint",
     times<"grads/down_proj_bias", 50>},
    {"routing_weight_gradient_negative",
     "",
     "",
     {C::experts},
     "the gradient of the routing weights has the wrong sign",
     "G",
     "grads/weights",
     "linear_adjoint",
     times<"grads/weights", -100>},
    {"x_gradient_scaled",
     "",
     "",
     {C::experts, C::mlp, C::moe},
     "the gradient of x is 1 % too large",
     "G",
     "grads/x",
     "central_differences",
     times<"grads/x", 101>},
    {"mlp_down_gradient_transposed",
     "",
     "",
     {C::mlp},
     "the gradient of the down projection is written transposed",
     "G",
     "grads/down_proj.weight",
     "linear_adjoint",
     transposed<"grads/down_proj.weight">},
    {"mlp_up_gradient_transposed",
     "",
     "",
     {C::mlp},
     "the gradient of the up projection is written transposed",
     "G",
     "grads/up_proj.weight",
     "central_differences",
     transposed<"grads/up_proj.weight">},
    {"mlp_down_bias_gradient_lost",
     "",
     "",
     {C::mlp},
     "the down bias has no gradient",
     "G",
     "grads/down_proj.bias",
     "central_differences",
     times<"grads/down_proj.bias", 0>},
    {"latent_in_gradient_transposed",
     "",
     "",
     {C::moe},
     "the gradient of the first latent projection is written transposed",
     "G",
     "grads/fc1_latent_proj.weight",
     "central_differences",
     transposed<"grads/fc1_latent_proj.weight">},
    {"latent_out_gradient_halved",
     "",
     "",
     {C::moe},
     "the gradient of the second latent projection is half as large",
     "G",
     "grads/fc2_latent_proj.weight",
     "central_differences",
     times<"grads/fc2_latent_proj.weight", 50>},
    {"shared_gate_gradient_lost",
     "",
     "",
     {C::moe},
     "the shared experts' gate has no gradient",
     "G",
     "grads/shared_expert_gate.weight",
     "central_differences",
     times<"grads/shared_expert_gate.weight", 0>},
    {"shared_up_gradient_scaled",
     "",
     "",
     {C::moe},
     "the gradient of the shared up projection is 1 % too large",
     "G",
     "grads/shared_experts.up_proj.weight",
     "central_differences",
     times<"grads/shared_experts.up_proj.weight", 101>},
    {"layer_gate_gradient_scaled",
     "",
     "",
     {C::moe},
     "the gradient of the gate's weight is 1 % too large",
     "G",
     "grads/gate.weight",
     "central_differences",
     times<"grads/gate.weight", 101>},
    {"loss_score_gradient_negative",
     "",
     "",
     {C::aux_loss},
     "the loss's gradient has the wrong sign",
     "G",
     "grads/original_scores",
     "gradient_of_load",
     times<"grads/original_scores", -100>},
    {"up_gradient_without_weight",
     "",
     "",
     {C::experts},
     "the gradient of the up projection lacks the routing weight",
     "G",
     kUp,
     "central_differences",
     up_gradient_without_weight},
    {"down_gradient_without_weight",
     "",
     "",
     {C::experts},
     "the gradient of the down projection lacks the routing weight",
     "G",
     kDown,
     "linear_adjoint",
     down_gradient_without_weight},
    {"weight_gradient_lacks_down_bias",
     "A46",
     "NeMo AutoModel #3387",
     {C::experts},
     "the routing weight's gradient leaves out the down bias",
     "G",
     "grads/weights",
     "linear_adjoint",
     weight_gradient_lacks_down_bias},
    {"masked_tokens_give_gradient",
     "",
     "",
     {C::experts, C::moe},
     "masked tokens feed the gradients of experts",
     "G",
     "grads/down_proj_bias grads/down_projs grads/experts.down_proj_bias grads/experts.down_projs",
     "masked_rows",
     masked_tokens_give_gradient},
    {"first_expert_without_gradient",
     "",
     "",
     {C::experts, C::moe},
     "the first expert's down projection has no gradient",
     "G",
     "grads/down_projs grads/experts.down_projs",
     "central_differences",
     first_expert_without_gradient},
};

}  // namespace

std::span<const Mutant> gradient_mutants() { return kGradientMutants; }

}  // namespace moeref
