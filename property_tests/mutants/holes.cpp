#include "property_tests/mutants/tables.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/mutants/lost_terms.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// Every rank deals its own tokens from expert 0 on.
NamedTensors cycle_begins_on_every_rank(Implementation& sound, const Call& call) {
  const CallOptions options = parse_call_options(call.options);
  const std::int64_t ranks = options.parallel.size();
  if (call.component != Component::moe || !options.fake_balanced_gate || ranks == 1 ||
      call.tensors.at("inputs/x").shape().size() != 2)
    return sound.run(call);
  const std::int64_t tokens = call.tensors.at("inputs/x").extent(0);
  NamedTensors out = sound.run(call);
  Tensor& y = out.at("outputs/y");
  const std::int64_t dim = y.extent(1);
  std::int64_t first = 0;
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::vector<std::int64_t>& given = options.parallel.tokens_per_rank;
    const std::int64_t count =
        given.empty() ? tokens / ranks + (r < tokens % ranks) : given[static_cast<std::size_t>(r)];
    std::vector<std::int64_t> own(static_cast<std::size_t>(count));
    std::iota(own.begin(), own.end(), first);
    Call alone = with_tokens(forward_alone(call), own);
    for (const char* option : {"ep_size", "cp_size", "tokens_per_rank", "exchange"})
      alone.options.erase(option);
    const NamedTensors part = sound.run(alone);
    for (std::int64_t i = 0; i < count * dim; ++i) y.set(first * dim + i, part.at("outputs/y")[i]);
    first += count;
  }
  return out;
}

/// The kernel writes the gradients of slots that have an expert; the others hold those of the call before.
class StaleWeightGradient final : public Implementation {
 public:
  explicit StaleWeightGradient(Implementation& sound) : sound_(sound) {}
  std::string name() const override { return sound_.name(); }
  std::optional<std::string> unsupported(const Call& call) const override { return sound_.unsupported(call); }
  NamedTensors run(const Call& call) override {
    NamedTensors out = sound_.run(call);
    const auto found = out.find("grads/weights");
    if (call.component != Component::experts || found == out.end()) return out;
    Tensor& gradient = found->second;
    const Tensor& ids = call.tensors.at("inputs/indices");
    const auto before = buffers_.find(gradient.shape());
    for (std::int64_t i = 0; before != buffers_.end() && i < gradient.size(); ++i)
      if (ids[i] < 0.0 || !is_live(call, i / ids.extent(1))) gradient.set(i, before->second[i]);
    buffers_.insert_or_assign(gradient.shape(), gradient);
    return out;
  }

 private:
  Implementation& sound_;
  std::map<Shape, Tensor> buffers_;
};

/// exp(z - m) overflows where the largest of the first 16 logits is far below the largest of all.
NamedTensors softmax_maximum_of_16_lanes(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.component != Component::gate || !call.config.value("score_func", "").starts_with("softmax"))
    return out;
  const Matrix z = logits_of(call);
  Tensor& weights = out.at("outputs/weights");
  const std::int64_t k = weights.extent(1);
  for (std::int64_t t = 0; t < z.rows; ++t) {
    double of_16 = -INFINITY, of_all = -INFINITY;
    for (std::int64_t e = 0; e < z.cols; ++e) {
      of_all = std::max(of_all, z.at(t, e));
      if (e < 16) of_16 = of_all;
    }
    for (std::int64_t j = 0; of_all - of_16 > 88.7 && j < k; ++j) weights.set(t * k + j, kNaN);
  }
  return out;
}

NamedTensors nan_selects_expert_0(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.component != Component::gate || call.tensors.contains("inputs/replay_indices")) return out;
  const Matrix z = logits_of(call);
  Tensor& ids = out.at("outputs/indices");
  for (std::int64_t t = 0; t < z.rows; ++t) {
    bool nan = false;
    for (std::int64_t e = 0; e < z.cols; ++e) nan = nan || std::isnan(z.at(t, e));
    for (std::int64_t j = 0; nan && j < ids.extent(1); ++j) ids.set(t * ids.extent(1) + j, 0.0);
  }
  return out;
}

/// fc1 of x, where it has the size of x and can be taken for it.
std::optional<Tensor> latent_rows(const Call& call) {
  if (call.component != Component::moe ||
      call.config.value("moe_latent_size", nlohmann::json()) != call.config.at("dim"))
    return std::nullopt;
  const Tensor &x = call.tensors.at("inputs/x"), &weight = call.tensors.at("params/fc1_latent_proj.weight");
  const Tensor* bias = find(call.tensors, "params/fc1_latent_proj.bias");
  const Matrix rows = product(matrix_of(x), false, matrix_of(weight), true);
  Tensor out(x.dtype(), x.shape());
  for (std::int64_t i = 0; i < out.size(); ++i)
    out.set(i, rows.values[static_cast<std::size_t>(i)] + (bias ? (*bias)[i % rows.cols] : 0.0));
  return out;
}

/// The layer's routed output for the experts that a gate on the latent rows selects.
NamedTensors gate_sees_latent(Implementation& sound, const Call& call) {
  const std::optional<Tensor> latent = latent_rows(call);
  if (!latent || parse_call_options(call.options).fake_balanced_gate || latent->shape().size() != 2 ||
      call.tensors.contains("inputs/replay_indices"))
    return sound.run(call);
  Call gate{Component::gate, call.config, nlohmann::json::object(), {}, false};
  gate.tensors["inputs/x"] = *latent;
  const std::string prefix = "params/gate.";
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with(prefix)) gate.tensors["params/" + name.substr(prefix.size())] = tensor;
  Call replay = with_config(call, {{"enable_routing_replay", true}});
  replay.tensors["inputs/replay_indices"] = sound.run(gate).at("outputs/indices");
  return sound.run(replay);
}

/// y + shared(latent rows) - shared(x).
NamedTensors shared_sees_latent(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::optional<Tensor> latent = latent_rows(call);
  const MoEConfig c = call.component == Component::moe ? parse_moe_config(call.config) : MoEConfig{};
  if (!latent || c.n_shared_experts == 0 || c.shared_expert_gate) return out;
  const MLPConfig shared{c.dim,         c.shared_dim(), c.dtype, c.shared_expert_activation,
                         c.expert_bias, c.swiglu_limit};
  Call mlp{Component::mlp, to_json(shared), nlohmann::json::object(), {}, false};
  const std::string prefix = "params/shared_experts.";
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with(prefix)) mlp.tensors["params/" + name.substr(prefix.size())] = tensor;
  mlp.tensors["inputs/x"] = call.tensors.at("inputs/x");
  const Tensor right = sound.run(mlp).at("outputs/y");
  mlp.tensors["inputs/x"] = *latent;
  const Tensor wrong = sound.run(mlp).at("outputs/y");
  Tensor& y = out.at("outputs/y");
  for (std::int64_t i = 0; i < y.size(); ++i) y.set(i, y[i] + wrong[i] - right[i]);
  return out;
}

/// A guard that belongs in a denominator, added to the sum itself: too small for any bound but float64's.
NamedTensors epsilon_in_the_output(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const auto y = out.find("outputs/y");
  if (y == out.end() || call.component == Component::moe) return out;
  for (std::int64_t i = 0; i < y->second.size(); ++i) y->second.set(i, y->second[i] + 1e-12);
  return out;
}

const Mutant kMutants[] = {
    {"silu_slope_of_mlp_is_sigmoid",
     "",
     "unsloth #3314",
     {Component::mlp},
     "the slope of SiLU lacks its second term, g s (1 - s)",
     "G",
     "grads/gate_proj.weight grads/gate_proj.bias grads/x",
     "within_bounds",
     silu_slope_is_sigmoid},
    {"silu_slope_of_experts_is_sigmoid",
     "",
     "unsloth #3314",
     {Component::experts},
     "the slope of SiLU lacks its second term, g s (1 - s)",
     "G",
     "grads/gate_and_up_projs grads/gate_up_proj_bias grads/x",
     "within_bounds",
     silu_slope_is_sigmoid},
    {"softmax_backward_without_sum",
     "",
     "",
     {Component::gate},
     "the backward pass of the softmax leaves out the sum over the experts",
     "G",
     "grads/x grads/weight grads/bias",
     "within_bounds",
     softmax_backward_without_sum},
    {"renormalisation_without_gradient",
     "",
     "",
     {Component::gate},
     "the sum that divides the selected scores is taken for a constant",
     "G",
     "grads/x grads/weight grads/bias",
     "within_bounds",
     renormalisation_without_gradient},
    {"cycle_begins_on_every_rank",
     "",
     "afd-plugin #156",
     {Component::moe},
     "the balanced gate deals from expert 0 again on every rank",
     "FR",
     "outputs/y",
     "rank_tokens",
     cycle_begins_on_every_rank},
    {"stale_gradient_of_absent_slots",
     "O17",
     "",
     {Component::experts},
     "slots without an expert keep the routing weight's gradient of the call before",
     "GS",
     "grads/weights",
     "absent_slots",
     nullptr,
     [](Implementation& sound) -> std::unique_ptr<Implementation> {
       return std::make_unique<StaleWeightGradient>(sound);
     }},
    {"softmax_maximum_of_16_lanes",
     "",
     "",
     {Component::gate},
     "the maximum that the softmax takes off is that of the first 16 experts",
     "FL",
     "outputs/weights",
     "lone_large_logit",
     softmax_maximum_of_16_lanes},
    {"nan_selects_expert_0",
     "",
     "vllm #39244, #39391",
     {Component::gate},
     "a token of NaN gets expert 0 in every slot",
     "F",
     "outputs/indices",
     "poisoned_token",
     nan_selects_expert_0},
    {"gate_sees_latent",
     "",
     "vllm #46077",
     {Component::moe},
     "the gate reads the latent rows, which runs where the latent size is dim",
     "F",
     "outputs/indices outputs/y",
     "latent_of_dim",
     gate_sees_latent},
    {"shared_sees_latent",
     "",
     "PaddleFleet #868",
     {Component::moe},
     "shared experts read the latent rows, which runs where the latent size is dim",
     "F",
     "outputs/y",
     "latent_of_dim",
     shared_sees_latent},
    {"epsilon_in_the_output",
     "",
     "",
     {Component::experts, Component::mlp},
     "an epsilon is added to every output",
     "F",
     "outputs/y",
     "exact_doubling",
     epsilon_in_the_output},
};

}  // namespace

std::span<const Mutant> holes_mutants() { return kMutants; }

}  // namespace moeref
