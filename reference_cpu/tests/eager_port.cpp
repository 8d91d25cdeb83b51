// Matrices of the eager port, the MoE layer and the calls.
#include "reference_cpu/tests/eager_port.hpp"

#include <algorithm>
#include <limits>

#include "reference_cpu/call/ranks.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"
#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {
namespace {

std::vector<bool> mask_of(const Call& call, const std::string& name, std::int64_t tokens, bool padding) {
  std::vector<bool> mask(static_cast<std::size_t>(tokens), true);
  if (const Tensor* given = find(call.tensors, "inputs/" + name))
    for (std::int64_t t = 0; t < tokens; ++t)
      mask[static_cast<std::size_t>(t)] = ((*given)[t] != 0.0) != padding;
  return mask;
}

Tensor integers(const std::vector<std::int64_t>& values, Shape shape) {
  return Tensor::of(std::move(shape), std::span<const std::int64_t>(values));
}

Tensor scalar(double value) {
  Tensor out(DType::float32, {});
  out.set(0, value);
  return out;
}

/// c as the gate adds it, nothing where it has none.
std::vector<Num> correction_of(const MoEConfig& c, const NamedTensors& tensors, const std::string& prefix) {
  std::vector<Num> out;
  if (c.has_correction_bias())
    for (const double v : require(tensors, prefix + "e_score_correction_bias").doubles())
      out.push_back({round_as(DType::float32, v), DType::float32});
  return out;
}

void put_gate(const GateResult& g, NamedTensors& out, const MoEConfig& c, const CallOptions& o) {
  const std::int64_t t = g.logits.rows, k = c.n_activated_experts, e = c.n_routed_experts;
  out["stages/logits"] = to_tensor(g.logits, {t, e}, g.logits.stored);
  out["stages/scores"] = to_tensor(g.scores, {t, e}, g.scores.stored);
  out["outputs/weights"] = to_tensor(g.weights, {t, k}, g.weights.stored);
  out["outputs/indices"] = integers(g.ids, {t, k});
  if (c.capacity_factor > 0.0 || c.expert_capacity > 0)
    out["outputs/dispatched_indices"] = integers(g.dispatched, {t, k});
  out["outputs/expert_load"] = integers(g.load, {e});
  for (const GateLoss& loss : g.losses) out[loss.name] = scalar(loss.result.loss);
  if (o.training && c.z_loss_coeff > 0.0) out["outputs/z_loss"] = scalar(g.z_loss);
}

}  // namespace

Tensor to_tensor(const Matrix& m, Shape shape, DType dtype) {
  Tensor out(dtype, std::move(shape));
  for (std::int64_t i = 0; i < out.size(); ++i) out.set(i, m.v[static_cast<std::size_t>(i)]);
  return out;
}

Matrix Workspace::load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols,
                       DType t) const {
  Matrix m = make(rows, cols, t);
  tensor.read(first, m.v);
  for (double& v : m.v) v = round_as(t, v);
  return m;
}
Matrix Workspace::load(const Tensor& tensor, std::int64_t cols, DType t) const {
  return load(tensor, 0, tensor.size() / cols, cols, t);
}

Matrix Workspace::cast_to(const Matrix& from, DType t) const {
  Matrix m = make(from.rows, from.cols, t);
  for (std::size_t i = 0; i < m.v.size(); ++i) m.v[i] = round_as(t, from.v[i]);
  return m;
}

Matrix Workspace::multiply(const Matrix& a, bool ta, const Matrix& b, bool tb, DType t) const {
  const std::int64_t rows = ta ? a.cols : a.rows, depth = ta ? a.rows : a.cols, cols = tb ? b.rows : b.cols;
  Matrix m = make(rows, cols, t);
  const bool rounds = o.operand_bits > 0 && a.stored == DType::float32 && b.stored == DType::float32;
  const auto operand = [&](Num value) {
    value = cast(value, wide(t));
    if (rounds) value.v = round_bits(value.v, o.operand_bits, -126, std::numeric_limits<float>::max());
    return value;
  };
  std::vector<Num> terms(static_cast<std::size_t>(depth));
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      for (std::int64_t k = 0; k < depth; ++k) {
        const Num left = ta ? a.at(k, i) : a.at(i, k), right = tb ? b.at(j, k) : b.at(k, j);
        terms[static_cast<std::size_t>(k)] = operand(left) * operand(right);
      }
      m.set(i, j, sum(terms, wide(t), o.order));
    }
  return m;
}

Matrix Workspace::linear(const Matrix& x, const Matrix& weight, const Matrix* bias) const {
  Matrix m = multiply(x, false, weight, true, o.fused ? wide(x.stored) : x.stored);
  Matrix out = make(m.rows, m.cols, x.stored);
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t c = 0; c < m.cols; ++c) out.set(r, c, bias ? m.at(r, c) + bias->at(0, c) : m.at(r, c));
  return out;
}

Matrix Workspace::sum_rows(const Matrix& m) const {
  Matrix out = make(1, m.cols, m.stored);
  for (std::int64_t c = 0; c < m.cols; ++c) {
    std::vector<Num> column;
    for (std::int64_t r = 0; r < m.rows; ++r) column.push_back(m.at(r, c));
    out.set(0, c, sum(column, wide(m.stored), o.order));
  }
  return out;
}

Matrix Workspace::accumulated(const std::vector<Matrix>& parts, DType t) const {
  Matrix out = make(parts[0].rows, parts[0].cols, t);
  for (std::int64_t r = 0; r < out.rows; ++r)
    for (std::int64_t c = 0; c < out.cols; ++c) {
      std::vector<Num> terms;
      for (const Matrix& part : parts) terms.push_back(part.at(r, c));
      out.set(r, c, accumulate(terms, out.read, o.order));
    }
  return out;
}

std::optional<std::string> EagerPort::unsupported(const Call& call) const {
  switch (call.component) {
    case Component::fake_balanced_gate:
    case Component::init:
    case Component::metrics:
      return "not part of the eager port";
    default:
      return std::nullopt;
  }
}

namespace {

/// The call with numbers in place of codes, code times scale as float32 rounds it. They have no gradient.
Call with_numbers(const Call& call) {
  Call out = dequantized_call(call);
  for (auto& [name, tensor] : out.tensors)
    if (!call.tensors.contains(name) && call.tensors.at("inputs/x").dtype() != DType::float64)
      tensor = tensor.cast(DType::float32);
  return out;
}

}  // namespace

NamedTensors EagerPort::run(const Call& asked) {
  const Call call = with_numbers(asked);
  if (has_routed_experts(call.component)) {
    const MoEConfig c = parse_moe_config(asked.config);
    w_.activations = c.activation_format;
    w_.codes = c.accumulator == Accumulator::e8m13_promoted128 ? &asked.tensors : nullptr;
  }
  NamedTensors out;
  switch (call.component) {
    case Component::gate:
      gate(call, out);
      break;
    case Component::aux_loss:
      aux_loss_component(call, out);
      break;
    case Component::bias_update:
      bias_update(call, out);
      break;
    case Component::mlp:
      mlp_component(call, out);
      break;
    case Component::experts:
      experts_component(call, out);
      break;
    case Component::moe:
      moe(call, out);
      break;
    default:
      break;
  }
  for (const auto& [name, tensor] : call.tensors)
    if (!asked.tensors.contains(name)) out.erase("grads/" + name.substr(std::string("params/").size()));
  return out;
}

void EagerPort::gate(const Call& call, NamedTensors& out) const {
  const MoEConfig c = parse_moe_config(call.config);
  const CallOptions o = parse_call_options(call.options);
  const Tensor& input = require(call.tensors, "inputs/x");
  const Matrix x = w_.load(input, c.dim, input.dtype());
  const auto mask = mask_of(call, "token_mask", x.rows, false);
  const auto correction = correction_of(c, call.tensors, "params/");
  const GateResult g =
      gate_forward(w_, c, o, call.tensors, "params/", x, mask, find(call.tensors, "inputs/replay_indices"),
                   correction.empty() ? nullptr : &correction);
  put_gate(g, out, c, o);
  if (!call.backward) return;
  const Matrix dw =
      w_.load(require(call.tensors, "cotangents/weights"), c.n_activated_experts, g.weights.stored);
  const Matrix dx = gate_backward(w_, c, o, call.tensors, "params/", mask, g, dw, input.dtype(), out);
  out["grads/x"] = to_tensor(dx, input.shape(), input.dtype());
}

void EagerPort::aux_loss_component(const Call& call, NamedTensors& out) const {
  const MoEConfig c = parse_moe_config(call.config);
  const Tensor& input = require(call.tensors, "inputs/original_scores");
  const Matrix scores = w_.load(input, c.n_routed_experts, input.dtype());
  const auto mask = mask_of(call, "token_mask", scores.rows, false);
  const auto ids = require(call.tensors, "inputs/indices").as<std::int64_t>();
  const auto load = load_of({ids.begin(), ids.end()}, mask, c.n_activated_experts, c.n_routed_experts);
  const AuxLossResult aux = aux_loss(w_, c, scores, {ids.begin(), ids.end()}, mask,
                                     find(call.tensors, "inputs/accumulated_expert_load"));
  out["outputs/expert_load"] = integers(load, {c.n_routed_experts});
  out["outputs/aux_loss"] = scalar(aux.loss);
  if (!call.backward) return;
  Matrix d = w_.make(scores.rows, scores.cols, input.dtype());
  for (std::int64_t t = 0; t < d.rows; ++t)
    for (std::int64_t i = 0; i < d.cols; ++i)
      d.set(t, i,
            aux.f[static_cast<std::size_t>(t)][static_cast<std::size_t>(i)] /
                aux.n[static_cast<std::size_t>(t)] * (mask[static_cast<std::size_t>(t)] ? 1.0 : 0.0));
  out["grads/original_scores"] = to_tensor(d, input.shape(), input.dtype());
}

void EagerPort::bias_update(const Call& call, NamedTensors& out) const {
  MoEConfig c = parse_moe_config(call.config);
  c.per_expert_scale = false;  // there are no weights
  const CallOptions o = parse_call_options(call.options);
  const std::int64_t e = c.n_routed_experts;
  auto correction = correction_of(c, call.tensors, "params/");
  for (std::int64_t s = 0; s < o.steps; ++s) {
    std::vector<std::int64_t> load(static_cast<std::size_t>(e));
    std::vector<std::vector<Num>> quantiles;
    for (std::int64_t m = 0; m < o.micro_batches; ++m) {
      const std::string at = "_" + std::to_string(s) + "_" + std::to_string(m);
      const Tensor& input = require(call.tensors, "inputs/x" + at);
      const Matrix x = w_.load(input, c.dim, input.dtype());
      const auto mask = mask_of(call, "token_mask" + at, x.rows, false);
      const GateResult g = gate_forward(w_, c, o, call.tensors, "params/", x, mask,
                                        find(call.tensors, "inputs/replay_indices" + at), &correction);
      for (std::size_t i = 0; i < load.size(); ++i) load[i] += g.load[i];
      const auto ranks = rank_offsets(o.parallel.dp_size, o.parallel.tokens_per_rank, x.rows);
      for (std::size_t r = 0; r + 1 < ranks.size() && c.bias_update_rule == BiasUpdateRule::quantile; ++r)
        if (auto own = column_quantiles(c, g, correction, mask, ranks[r], ranks[r + 1]); !own.empty())
          quantiles.push_back(std::move(own));
      out["outputs/indices" + at] = integers(g.ids, {x.rows, c.n_activated_experts});
    }
    const std::string at = "_" + std::to_string(s);
    out["outputs/cumulative_expert_load" + at] = integers(load, {e});
    update_correction(c, load, quantiles, w_.o.order, correction);
    Tensor bias(DType::float32, {e});
    for (std::int64_t i = 0; i < e; ++i) bias.set(i, correction[static_cast<std::size_t>(i)].v);
    out["outputs/e_score_correction_bias" + at] = bias;
  }
}

void EagerPort::mlp_component(const Call& call, NamedTensors& out) const {
  const MLPConfig c = parse_mlp_config(call.config);
  const Tensor& input = require(call.tensors, "inputs/x");
  const Matrix x = w_.load(input, c.dim, input.dtype());
  const Matrix dy =
      call.backward ? w_.load(require(call.tensors, "cotangents/y"), c.dim, input.dtype()) : Matrix();
  std::vector<Matrix> dx;
  const Matrix y = mlp(w_, c, call.tensors, "params/", x, call.backward ? &dy : nullptr, dx, out);
  out["outputs/y"] = to_tensor(y, input.shape(), input.dtype());
  if (call.backward)
    out["grads/x"] = to_tensor(w_.accumulated(dx, input.dtype()), input.shape(), input.dtype());
}

void EagerPort::experts_component(const Call& call, NamedTensors& out) const {
  const MoEConfig c = parse_moe_config(call.config);
  const CallOptions o = parse_call_options(call.options);
  const Tensor& input = require(call.tensors, "inputs/x");
  const Tensor& weights = require(call.tensors, "inputs/weights");
  const auto ids = require(call.tensors, "inputs/indices").as<std::int64_t>();
  const Matrix x = w_.load(input, c.expert_dim(), input.dtype());
  const Routed routed{{ids.begin(), ids.end()},
                      w_.load(weights, c.n_activated_experts, weights.dtype()),
                      mask_of(call, "token_mask", x.rows, false)};
  const Matrix dy = call.backward
                        ? w_.load(require(call.tensors, "cotangents/y"), c.expert_dim(), input.dtype())
                        : Matrix();
  std::vector<Matrix> dx{w_.make(x.rows, x.cols, input.dtype())};
  Matrix dweights;
  const Matrix y = experts(w_, c, o.parallel, call.tensors, "params/", x, routed,
                           call.backward ? &dy : nullptr, dx, dweights, out);
  out["outputs/y"] = to_tensor(y, input.shape(), input.dtype());
  if (!call.backward) return;
  out["grads/x"] = to_tensor(w_.accumulated(dx, input.dtype()), input.shape(), input.dtype());
  out["grads/weights"] = to_tensor(dweights, weights.shape(), weights.dtype());
}

void EagerPort::moe(const Call& call, NamedTensors& out) const {
  const MoEConfig c = parse_moe_config(call.config);
  const CallOptions o = parse_call_options(call.options);
  const NamedTensors& tensors = call.tensors;
  const Tensor& input = require(tensors, "inputs/x");
  const DType t = input.dtype();
  const Matrix x = w_.load(input, c.dim, t);
  const auto mask = mask_of(call, "padding_mask", x.rows, true);
  const Matrix dy = call.backward ? w_.load(require(tensors, "cotangents/y"), c.dim, t) : Matrix();
  const auto correction = correction_of(c, tensors, "params/gate.");
  const GateResult g =
      gate_forward(w_, c, o, tensors, "params/gate.", x, mask, find(tensors, "inputs/replay_indices"),
                   correction.empty() ? nullptr : &correction);
  put_gate(g, out, c, o);

  const auto projection = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    const std::string base = std::string("params/") + name;
    return std::pair{w_.load(require(tensors, base + ".weight"), 0, rows, cols, t),
                     c.expert_bias ? w_.load(require(tensors, base + ".bias"), 0, 1, rows, t) : Matrix()};
  };
  const auto project_back = [&](const std::string& name, const Matrix& from, const Matrix& weight, bool bias,
                                const Matrix& d) {
    const Tensor& param = require(tensors, "params/" + name + ".weight");
    out["grads/" + name + ".weight"] =
        to_tensor(w_.multiply(d, true, from, false, t), param.shape(), param.dtype());
    if (bias) {
      const Tensor& b = require(tensors, "params/" + name + ".bias");
      out["grads/" + name + ".bias"] = to_tensor(w_.sum_rows(d), b.shape(), b.dtype());
    }
    return w_.multiply(d, false, weight, false, t);
  };
  std::pair<Matrix, Matrix> fc1, fc2;
  const auto norm = [&](const Matrix& from) {
    const Matrix weight = w_.load(require(tensors, "params/latent_norm.weight"), 0, 1, from.cols, t);
    return rms_norm(w_, from, weight, c.latent_norm_eps, 1.0, t);
  };
  const auto norm_back = [&](const Matrix& from, const Matrix& d) {
    const Tensor& param = require(tensors, "params/latent_norm.weight");
    Matrix to_weight;
    Matrix dx =
        rms_norm_gradient(w_, from, w_.load(param, 0, 1, from.cols, t), c.latent_norm_eps, 1.0, d, to_weight);
    out["grads/latent_norm.weight"] = to_tensor(w_.sum_rows(to_weight), param.shape(), param.dtype());
    return dx;
  };
  Matrix latent = x, projected;
  if (c.moe_latent_size) {
    fc1 = projection("fc1_latent_proj", *c.moe_latent_size, c.dim);
    fc2 = projection("fc2_latent_proj", c.dim, *c.moe_latent_size);
    latent = projected = w_.linear(x, fc1.first, c.expert_bias ? &fc1.second : nullptr);
    if (c.latent_norm == LatentNorm::after_fc1) latent = norm(projected);
  }

  // The experts' output is needed before fc2's gradients are: two passes, the first one forward only.
  const Routed routed{g.dispatched, g.weights, mask};
  std::vector<Matrix> dx, d_latent{w_.make(x.rows, latent.cols, t)};
  Matrix dweights;
  const Matrix experts_y = experts(w_, c, o.parallel, tensors, "params/experts.", latent, routed, nullptr,
                                   d_latent, dweights, out);
  const Matrix routed_y = c.normalises_routed() ? norm(experts_y) : experts_y;
  Matrix y =
      c.moe_latent_size ? w_.linear(routed_y, fc2.first, c.expert_bias ? &fc2.second : nullptr) : routed_y;
  if (call.backward) {
    Matrix d_routed =
        c.moe_latent_size ? project_back("fc2_latent_proj", routed_y, fc2.first, c.expert_bias, dy) : dy;
    if (c.normalises_routed()) d_routed = norm_back(experts_y, d_routed);
    experts(w_, c, o.parallel, tensors, "params/experts.", latent, routed, &d_routed, d_latent, dweights,
            out);
    dx.push_back(gate_backward(w_, c, o, tensors, "params/gate.", mask, g, dweights, t, out));
    if (c.moe_latent_size) {
      Matrix d_projected = w_.accumulated(d_latent, t);
      if (c.latent_norm == LatentNorm::after_fc1) d_projected = norm_back(projected, d_projected);
      dx.push_back(project_back("fc1_latent_proj", x, fc1.first, c.expert_bias, d_projected));
    } else {
      dx.insert(dx.end(), d_latent.begin(), d_latent.end());
    }
  }

  if (c.n_shared_experts > 0) {
    const MLPConfig shared = shared_experts_config(c);
    std::vector<Matrix> dx_shared;
    Matrix z = mlp(w_, shared, tensors, "params/shared_experts.", x, nullptr, dx_shared, out);
    Matrix dz = dy;
    if (c.shared_expert_gate) {
      const Matrix weight = w_.load(require(tensors, "params/shared_expert_gate.weight"), 0, 1, c.dim, t);
      const Matrix logit = w_.linear(x, weight, nullptr);
      Matrix s = w_.make(x.rows, 1, t), d_logit = w_.make(x.rows, 1, t);
      for (std::int64_t r = 0; r < x.rows; ++r) {
        s.set(r, 0, sigmoid(logit.at(r, 0)));
        std::vector<Num> products;
        for (std::int64_t d = 0; d < c.dim; ++d) {
          if (call.backward) {
            products.push_back(dy.at(r, d) * z.at(r, d));
            dz.set(r, d, dy.at(r, d) * s.at(r, 0));
          }
          z.set(r, d, s.at(r, 0) * z.at(r, d));
        }
        const Num fine = cast(s.at(r, 0), wide(t)),
                  d_s = call.backward ? sum(products, s.read, w_.o.order) : Num{};
        d_logit.set(r, 0, cast(d_s, wide(t)) * (1.0 - fine) * fine);
      }
      if (call.backward) dx.push_back(project_back("shared_expert_gate", x, weight, false, d_logit));
    }
    if (call.backward) mlp(w_, shared, tensors, "params/shared_experts.", x, &dz, dx, out);
    y = w_.accumulated({y, z}, t);
  }
  out["outputs/y"] = to_tensor(y, input.shape(), t);
  if (call.backward) out["grads/x"] = to_tensor(w_.accumulated(dx, t), input.shape(), t);
}

}  // namespace moeref::eager
