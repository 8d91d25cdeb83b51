// Ports that read a convention of SPEC 10 on the gate's input wrongly, or go by its default: its
// root-mean-square norm and its noise.
#include <cmath>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

/// The outputs of a call whose tensor is ones.
NamedTensors with_ones(Implementation& sound, const Call& call, const char* tensor) {
  Call other = call;
  fill(other, tensor, 1.0);
  return with_results_of(sound, call, other, "outputs/");
}

bool norms_router_input(const Call& call) {
  return is(call, Component::gate) && call.config.contains("router_input_norm");
}

/// The gate without the norm, on these tokens [T, D].
Call without_router_norm(Call call, const Matrix& input) {
  for (const char* field : {"router_input_norm", "router_input_norm_eps"}) call.config.erase(field);
  call.tensors.erase("params/input_scale");
  Tensor& x = call.tensors.at("inputs/x");
  for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, input.values[static_cast<std::size_t>(i)]);
  return call;
}

NamedTensors router_norm_left_out(Implementation& sound, const Call& call) {
  if (!norms_router_input(call)) return sound.run(call);
  const Tensor& scale = call.tensors.at("params/input_scale");
  Matrix x = matrix_of(call.tensors.at("inputs/x"));
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < x.cols; ++i) x.at(t, i) *= scale[i] / std::sqrt(static_cast<double>(x.cols));
  return with_results_of(sound, call, without_router_norm(call, x), "outputs/");
}

NamedTensors router_norm_of_sum(Implementation& sound, const Call& call) {
  if (!norms_router_input(call)) return sound.run(call);
  Matrix x = router_input_of(call);
  for (double& a : x.values) a /= std::sqrt(static_cast<double>(x.cols));
  return with_results_of(sound, call, without_router_norm(call, x), "outputs/");
}

NamedTensors router_norm_eps_fixed(Implementation& sound, const Call& call) {
  return without_convention(sound, call, "router_input_norm_eps");
}

NamedTensors router_norm_without_scale(Implementation& sound, const Call& call) {
  return norms_router_input(call) ? with_ones(sound, call, "params/input_scale") : sound.run(call);
}

/// d x = r s d, without the part through r.
NamedTensors router_norm_taken_for_constant(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!norms_router_input(call) || !call.backward) return out;
  const Matrix input = router_input_of(call);
  const Tensor back = sound.run(without_router_norm(call, input)).at("grads/x"),
               &x = call.tensors.at("inputs/x");
  change(out, "grads/x", [&](std::int64_t i, double d) {
    return x[i] != 0.0 ? back[i] * input.values[static_cast<std::size_t>(i)] / x[i] : d;
  });
  return out;
}

bool jitters(const Call& call) { return is(call, Component::gate) && call.config.contains("router_jitter"); }

NamedTensors jitter_left_out(Implementation& sound, const Call& call) {
  return jitters(call) ? with_ones(sound, call, "inputs/router_noise") : sound.run(call);
}

/// d x of what the gate saw, without the noise on the way back.
NamedTensors jitter_left_out_backward(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!jitters(call) || !call.backward) return out;
  const Tensor& noise = call.tensors.at("inputs/router_noise");
  change(out, "grads/x", [&](std::int64_t i, double d) { return noise[i] != 0.0 ? d / noise[i] : d; });
  return out;
}

/// Noise of the token before.
NamedTensors jitter_of_other_token(Implementation& sound, const Call& call) {
  if (!jitters(call)) return sound.run(call);
  Call other = call;
  const Tensor& noise = call.tensors.at("inputs/router_noise");
  Tensor& turned = other.tensors.at("inputs/router_noise");
  const std::int64_t width = noise.shape().back();
  for (std::int64_t i = 0; i < noise.size(); ++i) turned.set((i + width) % noise.size(), noise[i]);
  return with_results_of(sound, call, other, "outputs/");
}

}  // namespace

std::span<const Mutant> router_input_convention_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "router_norm_left_out",
       .components = {Component::gate},
       .does = "the gate sees tokens that are scaled, but not normalised",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_input",
       .run = router_norm_left_out},
      {.name = "router_norm_of_sum",
       .components = {Component::gate},
       .does = "the gate's tokens are divided by the root of a sum of squares, not of their mean",
       .first_wrong = "outputs/weights outputs/indices",
       .property = "router_input",
       .run = router_norm_of_sum},
      {.name = "router_norm_eps_fixed",
       .components = {Component::gate},
       .does = "the norm of the gate's tokens has the eps of 1e-6 whatever router_input_norm_eps is",
       .first_wrong = "outputs/weights outputs/indices",
       .property = "router_input",
       .run = router_norm_eps_fixed},
      {.name = "router_norm_without_scale",
       .components = {Component::gate},
       .does = "the scale of the gate's normalised tokens is taken for 1",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_input",
       .run = router_norm_without_scale},
      {.name = "router_norm_taken_for_constant",
       .components = {Component::gate},
       .does = "the root mean square of the gate's tokens is taken for a constant",
       .shows = "G",
       .first_wrong = "grads/x",
       .property = "router_input",
       .run = router_norm_taken_for_constant},
      {.name = "jitter_left_out",
       .components = {Component::gate},
       .does = "the gate sees tokens without their noise",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_jitter",
       .run = jitter_left_out},
      {.name = "jitter_of_other_token",
       .components = {Component::gate},
       .does = "a token has the noise of the one before",
       .first_wrong = "outputs/indices outputs/weights outputs/expert_load",
       .property = "router_jitter",
       .run = jitter_of_other_token},
      {.name = "jitter_left_out_backward",
       .components = {Component::gate},
       .does = "the gradient of the gate's tokens does not pass their noise",
       .shows = "G",
       .first_wrong = "grads/x",
       .property = "router_jitter",
       .run = jitter_left_out_backward},
  };
  return kRows;
}

}  // namespace moeref
