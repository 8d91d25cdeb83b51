#include "property_tests/mutants/lost_terms.hpp"

#include <cmath>
#include <string>

#include "moeref/config.hpp"
#include "property_tests/layer/layer_calls.hpp"

namespace moeref {
namespace {

Matrix zeros(std::int64_t rows, std::int64_t cols) {
  return {rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols))};
}

}  // namespace

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

namespace {

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

}  // namespace

NamedTensors silu_slope_is_sigmoid(Implementation& sound, const Call& call) {
  if (call.component == Component::mlp) return silu_slope_of_mlp(sound, call);
  if (call.component == Component::experts) return silu_slope_of_experts(sound, call);
  return sound.run(call);
}

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

}  // namespace moeref
