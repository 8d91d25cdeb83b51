// Latent rows that are normalised otherwise than latent_norm says.
#include <cmath>

#include "property_tests/layer/latent_layer.hpp"
#include "property_tests/mutants/new_parts.hpp"

namespace moeref {
namespace {

bool norms_latent(const Call& call) {
  return is(call, Component::moe) && call.config.contains("latent_norm");
}
double latent_eps(const Call& call) { return parse_moe_config(call.config).latent_norm_eps; }

/// The layer with another eps and another factor on the norm's weight.
NamedTensors with_norm(Implementation& sound, const Call& call, double eps, double factor) {
  Call other = call;
  other.config["latent_norm_eps"] = eps;
  map_input(other, "params/latent_norm.weight", [&](std::int64_t, double w) { return w * factor; });
  return with_results_of(sound, call, other, "outputs/");
}

NamedTensors latent_norm_left_out(Implementation& sound, const Call& call) {
  if (!norms_latent(call)) return sound.run(call);
  Call other = call;
  other.config.erase("latent_norm");
  other.tensors.erase("params/latent_norm.weight");
  return with_results_of(sound, call, other, "outputs/");
}

NamedTensors latent_norm_at_other_place(Implementation& sound, const Call& call) {
  if (!norms_latent(call)) return sound.run(call);
  Call other = call;
  other.config["latent_norm"] = call.config.at("latent_norm") == "after_fc1" ? "before_fc2" : "after_fc1";
  return sound.run(other);
}

NamedTensors latent_norm_eps_fixed(Implementation& sound, const Call& call) {
  return norms_latent(call) ? with_norm(sound, call, 1e-5, 1.0) : sound.run(call);
}

NamedTensors latent_norm_without_eps(Implementation& sound, const Call& call) {
  return norms_latent(call) ? with_norm(sound, call, 1e-30, 1.0) : sound.run(call);
}

NamedTensors latent_norm_of_sum(Implementation& sound, const Call& call) {
  if (!norms_latent(call)) return sound.run(call);
  const auto width = static_cast<double>(size(call, "moe_latent_size"));
  return with_norm(sound, call, latent_eps(call) / width, 1.0 / std::sqrt(width));
}

NamedTensors latent_norm_over_model_width(Implementation& sound, const Call& call) {
  if (!norms_latent(call)) return sound.run(call);
  const double ratio =
      static_cast<double>(size(call, "dim")) / static_cast<double>(size(call, "moe_latent_size"));
  return with_norm(sound, call, latent_eps(call) * ratio, std::sqrt(ratio));
}

NamedTensors latent_norm_without_weight(Implementation& sound, const Call& call) {
  if (!norms_latent(call)) return sound.run(call);
  Call other = call;
  fill(other, "params/latent_norm.weight", 1.0);
  return with_results_of(sound, call, other, "outputs/");
}

NamedTensors latent_norm_weight_beside_one(Implementation& sound, const Call& call) {
  if (!norms_latent(call)) return sound.run(call);
  Call other = call;
  map_input(other, "params/latent_norm.weight", [](std::int64_t, double w) { return 1.0 + w; });
  return with_results_of(sound, call, other, "outputs/");
}

/// A layer that follows another rule, where it can be told.
NamedTensors with_rule(Implementation& sound, const Call& call, const LatentNormRule& rule) {
  NamedTensors out = sound.run(call);
  if (is_latent_layer(call))
    for (auto& [name, tensor] : latent_layer(call, rule)) out[name] = std::move(tensor);
  return out;
}

NamedTensors latent_norm_subtracts_mean(Implementation& sound, const Call& call) {
  return with_rule(sound, call, {.subtracts_mean = true});
}
NamedTensors latent_root_taken_for_constant(Implementation& sound, const Call& call) {
  return with_rule(sound, call, {.root_is_constant = true});
}
NamedTensors latent_weight_sees_rows_as_given(Implementation& sound, const Call& call) {
  return with_rule(sound, call, {.weight_sees_given = true});
}

constexpr std::string_view kBehindTheNorm = "outputs/y";

}  // namespace

std::span<const Mutant> latent_norm_mutants() {
  static const std::vector<Mutant> kRows = [] {
    const auto forward = [](std::string_view name, std::string_view does, auto* run) {
      return Mutant{.name = name,
                    .components = {Component::moe},
                    .does = does,
                    .first_wrong = kBehindTheNorm,
                    .property = "latent_norm",
                    .run = run};
    };
    const auto backward = [](std::string_view name, std::string_view does, std::string_view wrong,
                             auto* run) {
      return Mutant{.name = name,
                    .components = {Component::moe},
                    .does = does,
                    .shows = "G",
                    .first_wrong = wrong,
                    .property = "latent_norm",
                    .run = run};
    };
    return std::vector<Mutant>{
        forward("latent_norm_left_out", "rows of the latent size are not normalised", latent_norm_left_out),
        forward("latent_norm_at_other_place", "the latent rows are normalised at the other place",
                latent_norm_at_other_place),
        forward("latent_norm_eps_fixed", "the latent norm's eps is 1e-5 whatever latent_norm_eps is",
                latent_norm_eps_fixed),
        forward("latent_norm_without_eps", "nothing is added to the latent rows' mean square",
                latent_norm_without_eps),
        forward("latent_norm_of_sum",
                "latent rows are divided by the root of a sum of squares, not of their mean",
                latent_norm_of_sum),
        forward("latent_norm_over_model_width", "the latent rows' squares are divided by the model's width",
                latent_norm_over_model_width),
        forward("latent_norm_without_weight", "the weight of the latent norm is taken for 1",
                latent_norm_without_weight),
        forward("latent_norm_weight_beside_one", "latent rows are multiplied by 1 + weight",
                latent_norm_weight_beside_one),
        forward("latent_norm_subtracts_mean", "the mean is subtracted from latent rows, as in a layer norm",
                latent_norm_subtracts_mean),
        backward("latent_root_taken_for_constant",
                 "the root mean square of latent rows is taken for a constant",
                 "grads/x grads/fc1_latent_proj.weight grads/fc1_latent_proj.bias grads/experts.*",
                 latent_root_taken_for_constant),
        backward("latent_weight_sees_rows_as_given",
                 "the gradient of the latent norm's weight is made of rows before they are normalised",
                 "grads/latent_norm.weight", latent_weight_sees_rows_as_given),
    };
  }();
  return kRows;
}

}  // namespace moeref
