// Wrong layers, and what comes of calls before and beside: see mutant.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

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
    if (!std::isfinite(x)) change(out, "outputs/y", [](std::int64_t, double) { return kNotANumber; });
  return out;
}

/// Wraps a sound implementation and keeps something from call to call.
class Stateful : public Implementation {
 public:
  explicit Stateful(Implementation& sound) : sound_(sound) {}
  std::string name() const override { return "mutant with a state"; }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }

 protected:
  Implementation& sound_;
};

/// Every call adds to what the last one of the same size left behind.
class AddsToDirtyOutput final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    const Tensor y = out.contains("outputs/y") ? out.at("outputs/y") : Tensor();
    if (y.shape() == left_.shape())
      change(out, "outputs/y",
             [&](std::int64_t i, double v) { return std::isfinite(left_[i]) ? v + left_[i] : v; });
    left_ = y;
    return out;
  }

 private:
  Tensor left_;
};

class SumInRandomOrder final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    ++calls_;
    change(out, "outputs/y", [&](std::int64_t, double v) { return v * (1.0 + 1e-15 * calls_); });
    return out;
  }

 private:
  int calls_ = 0;
};

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

}  // namespace

std::span<const Mutant> layer_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "shared_experts_skip_masked",
       .components = {Component::moe},
       .does = "masked tokens get nothing from the shared experts",
       .first_wrong = "outputs/y",
       .property = "shared_adds",
       .run = shared_experts_skip_masked},
      {.name = "shared_gate_not_applied",
       .bug = "O14",
       .source = "NousResearch torchtitan #36",
       .components = {Component::moe},
       .does = "the gate of the shared experts is not applied",
       .first_wrong = "outputs/y",
       .property = "shared_adds central_differences",
       .run = shared_gate_not_applied},
      {.name = "sum_of_x_times_zero",
       .bug = "A23",
       .source = "NeMo AutoModel e42584e30",
       .components = {Component::experts, Component::moe},
       .does = "the sum of x times 0 is added to every output",
       .first_wrong = "outputs/y",
       .property = "token_poison",
       .run = sum_of_x_times_zero},
      {.name = "adds_to_dirty_output",
       .components = {Component::mlp, Component::experts, Component::moe},
       .does = "outputs are added to what the last call of that size left",
       .shows = "S",
       .first_wrong = "outputs/y",
       .property = "earlier_calls",
       .make = [](Implementation& sound) -> std::unique_ptr<Implementation> {
         return std::make_unique<AddsToDirtyOutput>(sound);
       }},
      {.name = "sum_in_random_order",
       .bug = "O36",
       .source = "DeepEP 82dcf48",
       .components = {Component::mlp, Component::experts, Component::moe},
       .does = "outputs differ in the last bits from call to call",
       .shows = "S P",
       .first_wrong = "outputs/y",
       .property = "rerun",
       .make = [](Implementation& sound) -> std::unique_ptr<Implementation> {
         return std::make_unique<SumInRandomOrder>(sound);
       },
       .not_in_bfloat16 = "it differs in the last bits of float64"},
      {.name = "end_of_sequence_lost",
       .bug = "O20",
       .source = "torchtitan #3604",
       .components = {Component::moe},
       .does = "the last token of each sequence gets no output",
       .first_wrong = "outputs/y",
       .property = "batch_shape",
       .run = end_of_sequence_lost},
      {.name = "padding_counted_in_load",
       .bug = "M1",
       .source = "Megatron-LM #6114",
       .components = {Component::moe},
       .does = "padding counts in the load",
       .first_wrong = "outputs/expert_load",
       .property = "layer_load",
       .run = padding_counted_in_load},
      {.name = "masked_tokens_miss_latent_bias",
       .components = {Component::moe},
       .does = "masked tokens do not get the bias of the projection from the latent size",
       .first_wrong = "outputs/y",
       .property = "masked_rows",
       .run = masked_tokens_miss_latent_bias},
      {.name = "latent_bias_lost",
       .source = "Megatron-LM #2296 (review)",
       .components = {Component::moe},
       .does = "the bias of the projection to the latent size is dropped",
       .first_wrong = "outputs/y",
       .property = "latent_projections",
       .run = latent_bias_lost},
      {.name = "weights_not_normalised",
       .bug = "A37",
       .source = "NeMo AutoModel f312be013",
       .components = {Component::moe},
       .does = "routing weights are not normalised",
       .first_wrong = "outputs/weights outputs/aux_loss",
       .property = "routing_irrelevant",
       .run = weights_not_normalised},
      {.name = "no_token_gives_a_row",
       .bug = "A25",
       .source = "NeMo AutoModel #532",
       .components = {Component::mlp, Component::experts, Component::moe},
       .does = "a call without tokens gets an output of one row",
       .first_wrong = "outputs/y",
       .property = "edges",
       .run = no_token_gives_a_row},
      {.name = "input_overwritten",
       .components = {Component::mlp},
       .does = "x is overwritten",
       .shows = "S",
       .first_wrong = "",
       .property = "earlier_calls",
       .run = input_overwritten},
  };
  return kRows;
}

}  // namespace moeref
