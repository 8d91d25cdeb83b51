#include "property_tests/mutants/holes.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <string>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/router/router_oracle.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Matrix zeros(std::int64_t rows, std::int64_t cols) {
  return {rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols))};
}

/// a b, or a b^T, or a^T b, in double.
Matrix product(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b) {
  const std::int64_t rows = transpose_a ? a.cols : a.rows, depth = transpose_a ? a.rows : a.cols,
                     cols = transpose_b ? b.rows : b.cols;
  Matrix out = zeros(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      for (std::int64_t i = 0; i < depth; ++i)
        out.at(r, c) += (transpose_a ? a.at(i, r) : a.at(r, i)) * (transpose_b ? b.at(c, i) : b.at(i, c));
  return out;
}

/// Adds to elements [first, first + added's size) of a result, where it is there.
void add_to(NamedTensors& results, const std::string& name, const Matrix& added, std::int64_t first = 0) {
  const auto found = results.find(name);
  if (found == results.end()) return;
  for (std::size_t i = 0; i < added.values.size(); ++i) {
    const std::int64_t at = first + static_cast<std::int64_t>(i);
    found->second.set(at, found->second[at] + added.values[i]);
  }
}

Matrix column_sums(const Matrix& m) {
  Matrix out = zeros(1, m.cols);
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t c = 0; c < m.cols; ++c) out.at(0, c) += m.at(r, c);
  return out;
}

/// `rows` x `cols` elements of a tensor from `first` on.
Matrix part_of(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols) {
  Matrix out = zeros(rows, cols);
  tensor.read(first, out.values);
  return out;
}

/// What SiLU's slope lacks without its second term, g s (1 - s).
double second_term(double g) {
  const double s = 1.0 / (1.0 + std::exp(-g));
  return g * s * (1.0 - s);
}

bool plain_swiglu(const Call& call, const char* field) {
  return call.backward && call.config.value(field, "swiglu") == "swiglu" &&
         call.config.value("swiglu_limit", 0.0) == 0.0;
}

NamedTensors silu_slope_of_mlp(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!plain_swiglu(call, "activation")) return out;
  const auto param = [&](const char* name) {
    return matrix_of(call.tensors.at("params/" + std::string(name)));
  };
  const auto project = [&](const Matrix& x, const std::string& name) {
    Matrix h = product(x, false, matrix_of(call.tensors.at("params/" + name + ".weight")), true);
    if (const Tensor* bias = find(call.tensors, "params/" + name + ".bias"))
      for (std::int64_t i = 0; i < h.rows * h.cols; ++i)
        h.values[static_cast<std::size_t>(i)] += (*bias)[i % h.cols];
    return h;
  };
  const Matrix x = matrix_of(call.tensors.at("inputs/x")), dy = matrix_of(call.tensors.at("cotangents/y"));
  const Matrix gate = project(x, "gate_proj"), up = project(x, "up_proj");
  Matrix lost = product(dy, false, param("down_proj.weight"), false);
  for (std::size_t i = 0; i < lost.values.size(); ++i)
    lost.values[i] *= -up.values[i] * second_term(gate.values[i]);
  add_to(out, "grads/gate_proj.weight", product(lost, true, x, false));
  add_to(out, "grads/gate_proj.bias", column_sums(lost));
  add_to(out, "grads/x", product(lost, false, param("gate_proj.weight"), false));
  return out;
}

NamedTensors silu_slope_of_experts(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!plain_swiglu(call, "expert_activation")) return out;
  const MoEConfig c = parse_moe_config(call.config);
  const std::int64_t width = c.moe_inter_dim, dim = c.expert_dim(), k = c.n_activated_experts;
  const Tensor &ids = call.tensors.at("inputs/indices"), &weights = call.tensors.at("inputs/weights"),
               &up = call.tensors.at("params/gate_and_up_projs"),
               &down = call.tensors.at("params/down_projs");
  const Tensor* bias = find(call.tensors, "params/gate_up_proj_bias");
  for (std::int64_t slot = 0; slot < ids.size(); ++slot) {
    const std::int64_t token = slot / k, e = static_cast<std::int64_t>(ids[slot]);
    if (e < 0 || !is_live(call, token)) continue;
    const Matrix x = part_of(call.tensors.at("inputs/x"), token * dim, 1, dim),
                 dy = part_of(call.tensors.at("cotangents/y"), token * dim, 1, dim),
                 w_up = part_of(up, e * dim * 2 * width, dim, 2 * width),
                 w_down = part_of(down, e * width * dim, width, dim);
    Matrix h = product(x, false, w_up, false);
    for (std::int64_t i = 0; bias && i < 2 * width; ++i) h.at(0, i) += (*bias)[e * 2 * width + i];
    const Matrix d_act = product(dy, false, w_down, true);
    Matrix lost = zeros(1, 2 * width);
    for (std::int64_t i = 0; i < width; ++i)
      lost.at(0, i) = -weights[slot] * d_act.at(0, i) * h.at(0, width + i) * second_term(h.at(0, i));
    add_to(out, "grads/gate_and_up_projs", product(x, true, lost, false), e * dim * 2 * width);
    add_to(out, "grads/gate_up_proj_bias", lost, e * 2 * width);
    add_to(out, "grads/x", product(lost, false, w_up, true), token * dim);
  }
  return out;
}

NamedTensors silu_slope_is_sigmoid(Implementation& sound, const Call& call) {
  if (call.component == Component::mlp) return silu_slope_of_mlp(sound, call);
  if (call.component == Component::experts) return silu_slope_of_experts(sound, call);
  return sound.run(call);
}

/// dz = s ds in place of s (ds - sum s ds), without normalisation and loss.
NamedTensors softmax_backward_without_sum(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.component != Component::gate || !call.backward) return out;
  const MoEConfig c = parse_moe_config(call.config);
  if (c.score_func != ScoreFunc::softmax || (c.norm_topk_prob && c.n_activated_experts > 1) ||
      c.aux_loss_coeff > 0.0)
    return out;
  const Matrix s = scores_of(call), x = matrix_of(call.tensors.at("inputs/x"));
  const Tensor &ids = out.at("outputs/indices"), &dw = call.tensors.at("cotangents/weights"),
               weights = out.at("outputs/weights");
  Matrix kept = zeros(s.rows, s.cols);
  const std::int64_t k = c.n_activated_experts;
  for (std::int64_t t = 0; t < s.rows; ++t) {
    const auto score = [&](std::int64_t slot) {
      return c.softmax_before_topk ? s.at(t, static_cast<std::int64_t>(ids[slot]))
                                   : weights[slot] / c.route_scale;
    };
    double sum = 0.0;
    for (std::int64_t slot = t * k; slot < (t + 1) * k; ++slot) sum += score(slot) * dw[slot] * c.route_scale;
    for (std::int64_t e = 0; c.softmax_before_topk && e < s.cols; ++e) kept.at(t, e) = s.at(t, e) * sum;
    for (std::int64_t slot = t * k; !c.softmax_before_topk && slot < (t + 1) * k; ++slot)
      kept.at(t, static_cast<std::int64_t>(ids[slot])) = score(slot) * sum;
  }
  add_to(out, "grads/x", product(kept, false, matrix_of(call.tensors.at("params/weight")), false));
  add_to(out, "grads/weight", product(kept, true, x, false));
  add_to(out, "grads/bias", column_sums(kept));
  return out;
}

/// The sum of the selected scores is taken for a constant: each gradient lacks w_j / total sum_i dw_i w_i.
NamedTensors renormalisation_without_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.component != Component::gate || !call.backward) return out;
  const MoEConfig c = parse_moe_config(call.config);
  if (c.score_func != ScoreFunc::sigmoid || !c.norm_topk_prob || c.n_activated_experts < 2 ||
      c.has_correction_bias() || c.aux_loss_coeff > 0.0)
    return out;
  const Matrix s = scores_of(call), x = matrix_of(call.tensors.at("inputs/x"));
  const Tensor &ids = out.at("outputs/indices"), &dw = call.tensors.at("cotangents/weights");
  const std::int64_t k = c.n_activated_experts;
  Matrix kept = zeros(s.rows, s.cols);
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double total = 0.0, inner = 0.0;
    for (std::int64_t slot = t * k; slot < (t + 1) * k; ++slot) {
      const double score = s.at(t, static_cast<std::int64_t>(ids[slot]));
      total += score;
      inner += score * dw[slot] * c.route_scale;
    }
    for (std::int64_t slot = t * k; slot < (t + 1) * k; ++slot) {
      const auto e = static_cast<std::int64_t>(ids[slot]);
      kept.at(t, e) += inner / (total * total) * s.at(t, e) * (1.0 - s.at(t, e));
    }
  }
  add_to(out, "grads/x", product(kept, false, matrix_of(call.tensors.at("params/weight")), false));
  add_to(out, "grads/weight", product(kept, true, x, false));
  add_to(out, "grads/bias", column_sums(kept));
  return out;
}

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
