// Wrong layers, and what comes of calls before and beside: see planted_bugs.hpp.
#include <algorithm>
#include <cmath>
#include <limits>

#include "property_tests/layer/tests/layer_bug_parts.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

NamedTensors shared_experts_skip_masked(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || size(call, "n_shared_experts") == 0) return out;
  Call bare = with_config(call, {{"n_shared_experts", 0}, {"shared_expert_gate", false}});
  std::erase_if(bare.tensors, [](const auto& entry) { return entry.first.starts_with("params/shared_"); });
  const NamedTensors routed = sound.run(bare);
  const std::int64_t dim = size(call, "dim");
  change(out, "outputs/y",
         [&](std::int64_t i, double y) { return is_live(call, i / dim) ? y : routed.at("outputs/y")[i]; });
  return out;
}

NamedTensors shared_gate_not_applied(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.tensors.contains("params/shared_expert_gate.weight"))
    return sound.run(call);
  NamedTensors out = sound.run(call);
  Call open = with_config(call, {{"shared_expert_gate", false}});
  open.tensors.erase("params/shared_expert_gate.weight");
  out["outputs/y"] = sound.run(open).at("outputs/y");
  return out;
}

NamedTensors sum_of_x_times_zero(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) && !is(call, Component::moe)) return out;
  for (const double x : call.tensors.at("inputs/x").doubles())
    if (!std::isfinite(x)) change(out, "outputs/y", [](std::int64_t, double) { return kNaN; });
  return out;
}

/// Every call adds to what the last one of the same size left behind.
NamedTensors adds_to_dirty_output(Implementation& sound, const Call& call) {
  static Tensor left;
  NamedTensors out = sound.run(call);
  const Tensor y = out.contains("outputs/y") ? out.at("outputs/y") : Tensor();
  if (y.shape() == left.shape())
    change(out, "outputs/y",
           [](std::int64_t i, double v) { return std::isfinite(left[i]) ? v + left[i] : v; });
  left = y;
  return out;
}

NamedTensors sum_in_random_order(Implementation& sound, const Call& call) {
  static int calls = 0;
  NamedTensors out = sound.run(call);
  ++calls;
  change(out, "outputs/y", [](std::int64_t, double v) { return v * (1.0 + 1e-15 * calls); });
  return out;
}

NamedTensors end_of_sequence_lost(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || call.tensors.at("inputs/x").shape().size() < 3) return out;
  const std::int64_t length = out.at("outputs/y").extent(1), dim = out.at("outputs/y").extent(2);
  change(out, "outputs/y",
         [&](std::int64_t i, double v) { return i / dim % length == length - 1 ? 0.0 : v; });
  return out;
}

NamedTensors padding_counted_in_load(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe)) return out;
  Call open = call;
  open.tensors.erase("inputs/padding_mask");
  out["outputs/expert_load"] = sound.run(open).at("outputs/expert_load");
  return out;
}

NamedTensors masked_tokens_miss_latent_bias(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || size(call, "n_shared_experts") > 0) return out;
  const std::int64_t dim = size(call, "dim");
  change(out, "outputs/y", [&](std::int64_t i, double v) { return is_live(call, i / dim) ? v : 0.0; });
  return out;
}

NamedTensors latent_bias_lost(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.tensors.contains("params/fc1_latent_proj.bias"))
    return sound.run(call);
  Call bare = call;
  fill(bare, "params/fc1_latent_proj.bias", 0.0);
  return sound.run(bare);
}

NamedTensors weights_not_normalised(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe)) return sound.run(call);
  return sound.run(with_config(call, {{"norm_topk_prob", false}}));
}

/// One row where there should be none.
NamedTensors no_token_gives_a_row(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const auto y = out.find("outputs/y");
  if (y != out.end() && y->second.size() == 0)
    y->second = filled(y->second.dtype(), {1, y->second.shape().back()}, 0.0);
  return out;
}

NamedTensors input_overwritten(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::mlp)) return out;
  auto& x = const_cast<Tensor&>(call.tensors.at("inputs/x"));
  for (std::int64_t i = 0; i < x.size(); ++i) x.set(i, x[i] + 1.0);
  return out;
}

constexpr PlantedBug kBugs[] = {
    {"shared_experts_skip_masked", "", "shared_adds", shared_experts_skip_masked},
    {"shared_gate_not_applied", "O14", "shared_adds", shared_gate_not_applied},
    {"shared_gate_not_applied", "O14", "central_differences", shared_gate_not_applied},
    {"sum_of_x_times_zero", "A23", "token_poison", sum_of_x_times_zero},
    {"adds_to_dirty_output", "", "earlier_calls", adds_to_dirty_output},
    {"sum_in_random_order", "O36", "rerun", sum_in_random_order},
    {"end_of_sequence_lost", "O20", "batch_shape", end_of_sequence_lost},
    {"padding_counted_in_load", "M1", "layer_load", padding_counted_in_load},
    {"masked_tokens_miss_latent_bias", "", "masked_rows", masked_tokens_miss_latent_bias},
    {"latent_bias_lost", "", "latent_projections", latent_bias_lost},
    {"weights_not_normalised", "A37", "routing_irrelevant", weights_not_normalised},
    {"no_token_gives_a_row", "A25", "edges", no_token_gives_a_row},
    {"input_overwritten", "", "earlier_calls", input_overwritten},
};

}  // namespace

std::span<const PlantedBug> planted_layer_bugs() { return kBugs; }

}  // namespace moeref
