#include "property_tests/suite/buckets.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/descriptor.hpp"

namespace moeref {
namespace {

const Tensor* ids_of(const Call& call, const NamedTensors& results) {
  for (const char* given : {"inputs/indices", "inputs/replay_indices", "inputs/replay_indices_0_0"})
    if (const Tensor* ids = find(call.tensors, given)) return ids;
  for (const char* selected : {"outputs/indices", "outputs/indices_0_0"})
    if (const Tensor* ids = find(results, selected)) return ids;
  return nullptr;
}

/// The call's main input, [T, ...].
const Tensor* rows_of(const Call& call) {
  for (const char* name : {"inputs/x", "inputs/x_0_0", "inputs/original_scores"})
    if (const Tensor* x = find(call.tensors, name)) return x;
  return nullptr;
}

std::int64_t tokens_of(const Call& call) {
  const Tensor* x = rows_of(call);
  if (!x) return -1;
  std::int64_t tokens = 1;
  for (std::size_t axis = 0; axis + 1 < x->shape().size(); ++axis) tokens *= x->extent(axis);
  return tokens;
}

bool has_config(const Call& call) { return call.component != Component::mlp; }

bool empty_expert(const Call& call, const NamedTensors& results) {
  if (!has_config(call)) return false;
  if (const Tensor* loads = find(call.tensors, "inputs/expert_load"))
    return std::ranges::any_of(loads->doubles(), [](double load) { return load == 0.0; });
  const Tensor* ids = ids_of(call, results);
  if (!ids || ids->size() == 0) return false;
  std::vector<bool> used(call.config.at("n_routed_experts").get<std::size_t>(), false);
  for (const double id : ids->doubles())
    if (id >= 0.0 && id < static_cast<double>(used.size())) used[static_cast<std::size_t>(id)] = true;
  return std::ranges::find(used, false) != used.end();
}

/// What a gate's selection is made from, roughly: biased scores of one token, in double.
struct GateView {
  std::int64_t experts, dim, tokens;
  std::vector<double> logits, scores, correction;
};

GateView view_gate(const Call& call) {
  const std::string prefix = call.component == Component::moe ? "params/gate." : "params/";
  const Tensor* x = rows_of(call);
  const Tensor* weight = find(call.tensors, prefix + "weight");
  const Tensor* bias = find(call.tensors, prefix + "bias");
  const Tensor* correction = find(call.tensors, prefix + "e_score_correction_bias");
  if (!x || !weight || x->size() == 0) return {};
  GateView view{weight->extent(0), weight->extent(1), x->size() / weight->extent(1), {}, {}, {}};
  const std::vector<double> inputs = x->doubles(), rows = weight->doubles();
  const bool softmax = call.config.at("score_func").get<std::string>().starts_with("softmax");
  for (std::int64_t t = 0; t < view.tokens; ++t) {
    double sum = 0.0;
    for (std::int64_t e = 0; e < view.experts; ++e) {
      double z = bias ? (*bias)[e] : 0.0;
      for (std::int64_t c = 0; c < view.dim; ++c)
        z += inputs[static_cast<std::size_t>(t * view.dim + c)] *
             rows[static_cast<std::size_t>(e * view.dim + c)];
      view.logits.push_back(z);
      view.scores.push_back(softmax ? std::exp(z) : 1.0 / (1.0 + std::exp(-z)));
      sum += view.scores.back();
    }
    if (softmax)
      for (std::int64_t e = 0; e < view.experts; ++e)
        view.scores[static_cast<std::size_t>(t * view.experts + e)] /= sum;
  }
  view.correction.assign(static_cast<std::size_t>(view.experts), 0.0);
  if (correction) view.correction = correction->doubles();
  return view;
}

/// Two experts with the same logit and bias, one of them selected and the other not.
/// Buckets that multiply matrices are met by small calls; of larger ones they would cost more than the check.
bool is_small(const Call& call) {
  const Tensor* x = rows_of(call);
  if (!x || x->size() > (1 << 14)) return false;
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/") && tensor.size() > (1 << 14)) return false;
  return true;
}

bool exact_ties(const Call& call, const NamedTensors& results) {
  if (!is_small(call)) return false;
  const Tensor* ids = find(results, "outputs/indices");
  if (!ids) ids = find(results, "outputs/indices_0_0");
  const GateView view = view_gate(call);
  if (!ids || view.logits.empty()) return false;
  const std::int64_t k = ids->extent(1);
  for (std::int64_t t = 0; t < view.tokens; ++t) {
    std::vector<bool> selected(static_cast<std::size_t>(view.experts), false);
    for (std::int64_t j = 0; j < k; ++j) {
      const double id = (*ids)[t * k + j];
      if (id >= 0.0 && id < static_cast<double>(view.experts)) selected[static_cast<std::size_t>(id)] = true;
    }
    for (std::size_t a = 0; a < selected.size(); ++a)
      for (std::size_t b = 0; b < selected.size(); ++b) {
        const std::size_t row = static_cast<std::size_t>(t * view.experts);
        if (selected[a] && !selected[b] && view.logits[row + a] == view.logits[row + b] &&
            view.correction[a] == view.correction[b])
          return true;
      }
  }
  return false;
}

bool negative_biased_scores(const Call& call, const NamedTensors&) {
  if (!is_small(call)) return false;
  const GateView view = view_gate(call);
  for (std::size_t i = 0; i < view.scores.size(); ++i)
    if (view.scores[i] + view.correction[i % static_cast<std::size_t>(view.experts)] < 0.0) return true;
  return false;
}

bool one_slot(const Call& call, const NamedTensors&) { return call.config.at("n_activated_experts") == 1; }
bool all_experts(const Call& call, const NamedTensors&) {
  return call.config.at("n_activated_experts") == call.config.at("n_routed_experts") &&
         call.config.at("n_routed_experts") > 1;
}
bool no_token(const Call& call, const NamedTensors&) { return tokens_of(call) == 0; }
bool one_token(const Call& call, const NamedTensors&) { return tokens_of(call) == 1; }

bool all_masked(const Call& call, const NamedTensors&) {
  for (const auto& [name, tensor] : call.tensors) {
    if (name.find("mask") == std::string::npos || tensor.size() == 0) continue;
    const double masked = name.find("padding") == std::string::npos ? 0.0 : 1.0;
    if (std::ranges::all_of(tensor.doubles(), [&](double m) { return m == masked; })) return true;
  }
  return false;
}

bool idle_rank(const Call& call, const NamedTensors&) {
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  if (parallel.size() == 1) return false;
  if (parallel.tokens_per_rank.empty()) return tokens_of(call) >= 0 && tokens_of(call) < parallel.size();
  return std::ranges::find(parallel.tokens_per_rank, 0) != parallel.tokens_per_rank.end();
}

bool duplicate_ids(const Call& call, const NamedTensors&) {
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids) return false;
  const std::int64_t k = ids->extent(1);
  for (std::int64_t i = 0; i < ids->size(); ++i)
    for (std::int64_t j = i + 1; j < (i / k + 1) * k; ++j)
      if ((*ids)[i] == (*ids)[j] && (*ids)[i] >= 0.0) return true;
  return false;
}

bool nan_token(const Call& call, const NamedTensors&) {
  const Tensor* x = rows_of(call);
  return x && is_small(call) && std::ranges::any_of(x->doubles(), [](double v) { return std::isnan(v); });
}

/// Whether a product of x with one column passes the limit; biases aside.
bool product_passes(const Tensor& x, const Tensor& weights, bool linear, double limit) {
  const std::int64_t width = x.shape().back(), rows = width > 0 ? x.size() / width : 0;
  const std::int64_t columns = linear ? weights.extent(0) : weights.shape().back();
  const std::int64_t matrices = linear || columns == 0 ? 1 : weights.extent(0);
  for (std::int64_t m = 0; m < matrices; ++m)
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t c = 0; c < columns; ++c) {
        double sum = 0.0;
        for (std::int64_t i = 0; i < width; ++i)
          sum +=
              x[t * width + i] * (linear ? weights[c * width + i] : weights[(m * width + i) * columns + c]);
        if (sum > limit) return true;
      }
  return false;
}

bool beyond_clamp(const Call& call, const NamedTensors&) {
  const Tensor* x = find(call.tensors, "inputs/x");
  if (!x || x->size() == 0 || !is_small(call)) return false;
  if (call.component == Component::mlp) {
    const MLPConfig c = parse_mlp_config(call.config);
    const Tensor* gate = find(call.tensors, "params/gate_proj.weight");
    return c.swiglu_limit > 0.0 && gate && product_passes(*x, *gate, true, c.swiglu_limit);
  }
  const MoEConfig c = parse_moe_config(call.config);
  const ClampField clamp = facts(c.expert_activation).clamp;
  const double limit = clamp == ClampField::none               ? 0.0
                       : clamp == ClampField::activation_limit ? c.activation_limit
                                                               : c.swiglu_limit;
  const std::string prefix = call.component == Component::moe ? "params/experts." : "params/";
  const Tensor* up = find(call.tensors, prefix + "gate_and_up_projs");
  if (limit <= 0.0 || !up || up->extent(1) != x->shape().back()) return false;
  return product_passes(*x, *up, false, limit);
}

}  // namespace

const std::vector<Bucket>& buckets() {
  using enum Component;
  static const std::vector<Bucket> table{
      {"empty_expert", {gate, aux_loss, bias_update, experts, moe, metrics}, empty_expert},
      {"exact_ties", {gate, bias_update}, exact_ties},
      {"negative_biased_scores", {gate, bias_update}, negative_biased_scores},
      {"one_slot", {gate, aux_loss, bias_update, fake_balanced_gate, experts, moe}, one_slot},
      {"all_experts", {gate, aux_loss, bias_update, fake_balanced_gate, experts, moe}, all_experts},
      {"no_token", {gate, aux_loss, fake_balanced_gate, mlp, experts, moe}, no_token},
      {"one_token", {gate, aux_loss, fake_balanced_gate, mlp, experts, moe}, one_token},
      {"all_masked", {gate, aux_loss, bias_update, experts, moe}, all_masked},
      {"idle_rank", {gate, bias_update, experts, moe}, idle_rank},
      {"duplicate_ids", {aux_loss, experts}, duplicate_ids},
      {"nan_token", {gate, experts, moe}, nan_token},
      {"beyond_clamp", {mlp, experts, moe}, beyond_clamp},
  };
  return table;
}

std::optional<std::string> BucketObserver::unsupported(const Call& call) const {
  note(call, {});
  return observed_.unsupported(call);
}

NamedTensors BucketObserver::run(const Call& call) {
  NamedTensors results = observed_.run(call);
  note(call, results);
  return results;
}

void BucketObserver::note(const Call& call, const NamedTensors& results) const {
  for (const Bucket& bucket : buckets()) {
    if (met_.contains(bucket.name) ||
        std::ranges::find(bucket.components, call.component) == bucket.components.end())
      continue;
    if (bucket.met(call, results)) met_.insert(bucket.name);
  }
}

}  // namespace moeref
