#include "property_tests/mutants/plain_experts.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include "property_tests/mutants/new_parts.hpp"
#include "reference_cpu/quantization/quantized_call.hpp"

namespace moeref {
namespace {

constexpr double kRoot = 0.7978845608028654, kCubic = 0.044715;

double tanh_of(double x) { return std::tanh(kRoot * (x + kCubic * x * x * x)); }

/// The slope of x/2 (1 + tanh_of(x)).
double tanh_slope(double x) {
  const double t = tanh_of(x), inner = kRoot * (1.0 + 3.0 * kCubic * x * x);
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner;
}
/// Of the normal distribution: the share below x, and the density there.
double normal_share(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double normal_density(double x) { return 0.3989422804014327 * std::exp(-0.5 * x * x); }

/// beta tanh(z / beta), or z where beta is 0, and its slope.
double bounded(double z, double beta) { return beta == 0.0 ? z : beta * std::tanh(z / beta); }
double bounded_slope(double z, double beta) {
  return beta == 0.0 ? 1.0 : 1.0 - std::tanh(z / beta) * std::tanh(z / beta);
}

double limit_of(const MoEConfig& c) {
  const ActivationFacts& row = facts(c.expert_activation);
  const double limit = row.clamp == ClampField::swiglu_limit       ? c.swiglu_limit
                       : row.clamp == ClampField::activation_limit ? c.activation_limit
                                                                   : 0.0;
  return row.clamp != ClampField::none && (limit > 0.0 || row.always_clamps) ? limit : INFINITY;
}

using Numbers = std::vector<double>;

/// A parameter as the product sees it: in the type of x.
Numbers seen(const NamedTensors& tensors, const std::string& name, DType type) {
  const Tensor* tensor = find(tensors, name);
  return tensor ? tensor->cast(type).doubles() : Numbers();
}

struct Columns {
  std::int64_t gate = -1, up = 0;
};
Columns columns_of(const MoEConfig& c, std::int64_t i) {
  const ActivationFacts& row = facts(c.expert_activation);
  if (!row.gated) return {-1, i};
  return row.interleaved ? Columns{2 * i, 2 * i + 1} : Columns{i, c.moe_inter_dim + i};
}

/// Everything of one experts call: ids, weights and parameters in double.
struct Work {
  MoEConfig c;
  std::int64_t tokens, k, dim, width, up_dim;
  DType type;
  Numbers x, w, up, down, up_bias, down_bias, dy;
  const ExpertsParts& parts;
  ActivationFormat format;

  Work(const Call& call, const ExpertsParts& p, ActivationFormat activations)
      : c(parse_moe_config(call.config)),
        tokens(token_count(call)),
        k(c.n_activated_experts),
        dim(c.expert_dim()),
        width(c.moe_inter_dim),
        up_dim(c.up_dim()),
        type(c.expert_compute_dtype.value_or(call.tensors.at("inputs/x").dtype())),
        x(call.tensors.at("inputs/x").cast(type).doubles()),
        w(call.tensors.at("inputs/weights").doubles()),
        up(seen(call.tensors, "params/gate_and_up_projs", operands(activations))),
        down(seen(call.tensors, "params/down_projs", operands(activations))),
        up_bias(seen(call.tensors, "params/gate_up_proj_bias", type)),
        down_bias(seen(call.tensors, "params/down_proj_bias", type)),
        parts(p),
        format(activations) {
    if (call.backward) dy = call.tensors.at("cotangents/y").doubles();
  }

  /// Quantised operands are not rounded to the type of x.
  DType operands(ActivationFormat activations) const {
    return activations == ActivationFormat::none ? type : DType::float64;
  }

  /// A row as a product multiplies it.
  Numbers operand(const Numbers& rows, std::int64_t row, std::int64_t width_of_rows, bool hidden) const {
    const PlainRows all{rows, width_of_rows, hidden};
    return format == ActivationFormat::none ? all.row(row) : parts.quantised(facts(format), all, row);
  }

  /// A row times the column of a matrix that begins at `first`.
  double dot(const Numbers& row, const Numbers& matrix, std::int64_t first, std::int64_t columns) const {
    const auto weight = [&](std::size_t k) {
      return matrix[static_cast<std::size_t>(first) + k * static_cast<std::size_t>(columns)];
    };
    if (parts.dot && format != ActivationFormat::none) {
      Numbers column;
      for (std::size_t k = 0; k < row.size(); ++k) column.push_back(weight(k));
      return parts.dot(row, column);
    }
    double sum = 0.0;
    for (std::size_t k = 0; k < row.size(); ++k)
      sum = parts.add ? parts.add(type, sum, row[k] * weight(k)) : sum + row[k] * weight(k);
    return sum;
  }
};

/// Adds what one slot gives to y, and to the gradients where there are any.
struct Gradients {
  Numbers x, w, up, down, up_bias, down_bias;
};
void add_slot(const Work& s, std::int64_t token, std::int64_t slot, std::int64_t e, Numbers& y,
              std::optional<Gradients>& grads) {
  const bool after = s.c.apply_router_weight_after_down, ruled = s.c.router_weight_on_input,
             early = s.parts.weight_on_input || ruled;
  const double weight = s.w[static_cast<std::size_t>(slot)], p = early ? 1.0 : weight;
  const auto at = [](const Numbers& v, std::int64_t i) { return v[static_cast<std::size_t>(i)]; };
  Numbers weighted;  // the token's row where its weight stands there
  for (std::int64_t d = 0; early && d < s.dim; ++d) weighted.push_back(weight * at(s.x, token * s.dim + d));
  const Numbers in = early ? s.operand(weighted, 0, s.dim, false) : s.operand(s.x, token, s.dim, false);
  Numbers h(static_cast<std::size_t>(s.up_dim));
  for (std::int64_t j = 0; j < s.up_dim; ++j) {
    const double sum = s.dot(in, s.up, e * s.dim * s.up_dim + j, s.up_dim);
    h[static_cast<std::size_t>(j)] = sum + (s.c.expert_bias ? at(s.up_bias, e * s.up_dim + j) : 0.0);
  }
  Numbers a(static_cast<std::size_t>(s.width));
  for (std::int64_t i = 0; i < s.width; ++i) {
    const Columns col = columns_of(s.c, i);
    a[static_cast<std::size_t>(i)] =
        s.parts.value(s.c, col.gate < 0 ? 0.0 : at(h, col.gate), at(h, col.up)) * (after ? 1.0 : p);
  }
  a = s.operand(a, 0, s.width, true);
  Numbers o(static_cast<std::size_t>(s.dim));
  for (std::int64_t d = 0; d < s.dim; ++d) {
    double sum = s.dot(a, s.down, e * s.width * s.dim + d, s.dim);
    if (s.c.expert_bias) sum += at(s.down_bias, e * s.dim + d) * (after || ruled ? 1.0 : weight);
    o[static_cast<std::size_t>(d)] = sum;
    y[static_cast<std::size_t>(token * s.dim + d)] += sum * (after ? p : 1.0);
  }
  if (!grads) return;
  Gradients& g = *grads;
  double& dw = g.w[static_cast<std::size_t>(slot)];
  Numbers da(a.size());
  for (std::int64_t d = 0; d < s.dim; ++d) {
    const double above = at(s.dy, token * s.dim + d), d_o = above * (after ? p : 1.0);
    if (after) dw += above * o[static_cast<std::size_t>(d)];
    if (!after && !ruled && s.c.expert_bias) dw += above * at(s.down_bias, e * s.dim + d);
    if (s.c.expert_bias)
      g.down_bias[static_cast<std::size_t>(e * s.dim + d)] += above * (ruled ? 1.0 : weight);
    for (std::int64_t i = 0; i < s.width; ++i) {
      const auto place = static_cast<std::size_t>((e * s.width + i) * s.dim + d);
      g.down[place] += at(a, i) * d_o;
      da[static_cast<std::size_t>(i)] += d_o * s.down[place];
    }
  }
  Numbers dh(h.size());
  for (std::int64_t i = 0; i < s.width; ++i) {
    const Columns col = columns_of(s.c, i);
    const double gate = col.gate < 0 ? 0.0 : at(h, col.gate), up = at(h, col.up);
    const auto [by_gate, by_up] = s.parts.slope(s.c, gate, up);
    const double d = at(da, i);
    if (!after && !early) dw += d * s.parts.value(s.c, gate, up);
    if (col.gate >= 0) dh[static_cast<std::size_t>(col.gate)] = d * by_gate * (after ? 1.0 : p);
    dh[static_cast<std::size_t>(col.up)] = d * by_up * (after ? 1.0 : p);
  }
  for (std::int64_t j = 0; j < s.up_dim; ++j) {
    if (s.c.expert_bias) g.up_bias[static_cast<std::size_t>(e * s.up_dim + j)] += at(dh, j);
    for (std::int64_t d = 0; d < s.dim; ++d) {
      const auto place = static_cast<std::size_t>((e * s.dim + d) * s.up_dim + j);
      const double x = at(s.x, token * s.dim + d), d_in = at(dh, j) * s.up[place];
      g.up[place] += x * at(dh, j) * (ruled ? weight : 1.0);
      g.x[static_cast<std::size_t>(token * s.dim + d)] += d_in * (ruled ? weight : 1.0);
      if (ruled) dw += x * d_in;
    }
  }
}

NamedTensors run_experts(const Call& asked, const ExpertsParts& parts) {
  const Call call = dequantized_call(asked);
  const Work s(call, parts, parse_moe_config(asked.config).activation_format);
  const Tensor& ids = call.tensors.at("inputs/indices");
  Numbers y(s.x.size());
  std::optional<Gradients> g;
  if (call.backward)
    g = Gradients{Numbers(s.x.size()),    Numbers(s.w.size()),       Numbers(s.up.size()),
                  Numbers(s.down.size()), Numbers(s.up_bias.size()), Numbers(s.down_bias.size())};
  for (std::int64_t slot = 0; slot < ids.size(); ++slot)
    if (ids[slot] >= 0.0 && is_live(call, slot / s.k))
      add_slot(s, slot / s.k, slot, static_cast<std::int64_t>(ids[slot]), y, g);
  NamedTensors out;
  const auto put = [&](const char* name, const char* like, const Numbers& values) {
    const bool codes = std::string_view(like).ends_with("projs") && !find(asked.tensors, like);
    if (const Tensor* shaped = find(call.tensors, like); shaped && !codes)
      out[name] = Tensor::of(shaped->shape(), std::span<const double>(values));
  };
  put("outputs/y", "inputs/x", y);
  if (!g) return out;
  put("grads/x", "inputs/x", g->x);
  put("grads/weights", "inputs/weights", g->w);
  put("grads/gate_and_up_projs", "params/gate_and_up_projs", g->up);
  put("grads/down_projs", "params/down_projs", g->down);
  put("grads/gate_up_proj_bias", "params/gate_up_proj_bias", g->up_bias);
  put("grads/down_proj_bias", "params/down_proj_bias", g->down_bias);
  return out;
}

struct Part {
  const char* name;
  std::int64_t first;  ///< of the columns of gate_and_up_projs; -1 for the down projection
};
std::vector<Part> parts_of(const MLPConfig& c) {
  if (!facts(c.activation).gated) return {{"up_proj", 0}, {"down_proj", -1}};
  return {{"gate_proj", 0}, {"up_proj", c.inter_dim}, {"down_proj", -1}};
}

/// An MLP is one expert of weight 1 that has every token; its matrices are stored the other way round.
NamedTensors run_mlp(const Call& call, const ExpertsParts& parts) {
  const MLPConfig c = parse_mlp_config(call.config);
  MoEConfig one;
  one.n_routed_experts = one.n_activated_experts = 1;
  one.dim = c.dim;
  one.inter_dim = one.moe_inter_dim = c.inter_dim;
  one.expert_activation = c.activation;
  one.swiglu_limit = c.swiglu_limit;
  one.situ_beta = c.situ_beta, one.situ_linear_beta = c.situ_linear_beta;
  one.expert_bias = c.bias;
  one.dtype = c.dtype;
  const std::int64_t tokens = token_count(call), columns = one.up_dim();
  Call expert{Component::experts, to_json(one), nlohmann::json::object(), {}, call.backward};
  const auto flat = [&](const char* name) {
    expert.tensors[name] = call.tensors.at(name).reshaped({tokens, c.dim});
  };
  flat("inputs/x");
  if (call.backward) flat("cotangents/y");
  expert.tensors["inputs/weights"] = filled(DType::float64, {tokens, 1}, 1.0);
  expert.tensors["inputs/indices"] = Tensor(DType::int64, {tokens, 1});
  Tensor up(DType::float64, {1, c.dim, columns}), down(DType::float64, {1, c.inter_dim, c.dim}),
      up_bias(DType::float64, {1, columns}), down_bias(DType::float64, {1, c.dim});
  const auto each = [&](const Part& part, auto&& f) {  // f(row of the stored matrix, its column, place here)
    const std::int64_t rows = part.first < 0 ? c.dim : c.inter_dim,
                       cols = part.first < 0 ? c.inter_dim : c.dim;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t col = 0; col < cols; ++col)
        f(r * cols + col, part.first < 0 ? col * c.dim + r : col * columns + part.first + r);
  };
  for (const Part& part : parts_of(c)) {
    const std::string base = std::string("params/") + part.name;
    const Tensor& weight = call.tensors.at(base + ".weight");
    each(part,
         [&](std::int64_t from, std::int64_t to) { (part.first < 0 ? down : up).set(to, weight[from]); });
    if (!c.bias) continue;
    const Tensor& bias = call.tensors.at(base + ".bias");
    for (std::int64_t i = 0; i < bias.size(); ++i)
      (part.first < 0 ? down_bias : up_bias).set(std::max<std::int64_t>(part.first, 0) + i, bias[i]);
  }
  expert.tensors["params/gate_and_up_projs"] = up;
  expert.tensors["params/down_projs"] = down;
  if (c.bias) {
    expert.tensors["params/gate_up_proj_bias"] = up_bias;
    expert.tensors["params/down_proj_bias"] = down_bias;
  }
  NamedTensors results = run_experts(expert, parts), out;
  const Shape& shape = call.tensors.at("inputs/x").shape();
  out["outputs/y"] = results.at("outputs/y").reshaped(shape);
  if (!call.backward) return out;
  out["grads/x"] = results.at("grads/x").reshaped(shape);
  for (const Part& part : parts_of(c)) {
    const std::string base = std::string("/") + part.name;
    const Tensor& from = results.at(part.first < 0 ? "grads/down_projs" : "grads/gate_and_up_projs");
    Tensor weight(DType::float64, call.tensors.at("params" + base + ".weight").shape());
    each(part, [&](std::int64_t to, std::int64_t place) { weight.set(to, from[place]); });
    out["grads" + base + ".weight"] = weight;
    if (!c.bias) continue;
    const Tensor& sums = results.at(part.first < 0 ? "grads/down_proj_bias" : "grads/gate_up_proj_bias");
    Tensor bias(DType::float64, call.tensors.at("params" + base + ".bias").shape());
    for (std::int64_t i = 0; i < bias.size(); ++i)
      bias.set(i, sums[std::max<std::int64_t>(part.first, 0) + i]);
    out["grads" + base + ".bias"] = bias;
  }
  return out;
}

}  // namespace

std::vector<double> PlainRows::row(std::int64_t index) const {
  const auto first = values.begin() + index * width;
  return {first, first + width};
}

double PlainRows::largest(std::int64_t row, std::int64_t index, std::int64_t group) const {
  double out = 0.0;
  for (std::int64_t k = index * group; k < std::min((index + 1) * group, width); ++k)
    out = std::max(out, std::abs(values[static_cast<std::size_t>(row * width + k)]));
  return out;
}

std::vector<double> plain_quantised(const ActivationFormatFacts& f, const PlainRows& rows, std::int64_t row) {
  return plain_quantised(f, rows.row(row));
}

double plain_sigmoid(double z) { return 1.0 / (1.0 + std::exp(-z)); }

double activation_value(const MoEConfig& c, double gate, double up) {
  const double limit = limit_of(c), g = std::min(gate, limit), u = std::clamp(up, -limit, limit);
  switch (c.expert_activation) {
    case ActivationKind::swiglu:
      if (c.clamp_after_activation) return std::min(gate * plain_sigmoid(gate), limit) * u;
      return g * plain_sigmoid(g) * u;
    case ActivationKind::swigluoai:
    case ActivationKind::quick_geglu:
      return g * plain_sigmoid(c.activation_alpha * g) * (u + 1.0);
    case ActivationKind::geglu:
      return 0.5 * g * (1.0 + tanh_of(g)) * u;
    case ActivationKind::geglu_erf:
      return g * normal_share(g) * u;
    case ActivationKind::silu:
      return up * plain_sigmoid(up);
    case ActivationKind::gelu:
      return up * normal_share(up);
    case ActivationKind::gelu_tanh:
      return 0.5 * up * (1.0 + tanh_of(up));
    case ActivationKind::relu:
      return std::max(up, 0.0);
    case ActivationKind::situ:
      return bounded(gate, c.situ_beta) * plain_sigmoid(gate) * bounded(up, c.situ_linear_beta);
    case ActivationKind::relu2:
      break;
  }
  return up > 0.0 ? up * up : 0.0;
}

std::pair<double, double> activation_slope(const MoEConfig& c, double gate, double up) {
  const double limit = limit_of(c), g = std::min(gate, limit), u = std::clamp(up, -limit, limit);
  const double by_gate = gate <= limit ? 1.0 : 0.0, by_up = up >= -limit && up <= limit ? 1.0 : 0.0;
  switch (c.expert_activation) {
    case ActivationKind::swiglu: {
      if (c.clamp_after_activation) {
        const double s = plain_sigmoid(gate), silu = gate * s;
        return {silu <= limit ? s * (1.0 + gate * (1.0 - s)) * u : 0.0, by_up * std::min(silu, limit)};
      }
      const double s = plain_sigmoid(g);
      return {by_gate * s * (1.0 + g * (1.0 - s)) * u, by_up * g * s};
    }
    case ActivationKind::swigluoai:
    case ActivationKind::quick_geglu: {
      const double a = c.activation_alpha, s = plain_sigmoid(a * g);
      return {by_gate * s * (1.0 + a * g * (1.0 - s)) * (u + 1.0), by_up * g * s};
    }
    case ActivationKind::geglu:
      return {tanh_slope(g) * u, 0.5 * g * (1.0 + tanh_of(g))};
    case ActivationKind::geglu_erf:
      return {(normal_share(g) + g * normal_density(g)) * u, g * normal_share(g)};
    case ActivationKind::silu:
      return {0.0, plain_sigmoid(up) * (1.0 + up * (1.0 - plain_sigmoid(up)))};
    case ActivationKind::gelu:
      return {0.0, normal_share(up) + up * normal_density(up)};
    case ActivationKind::gelu_tanh:
      return {0.0, tanh_slope(up)};
    case ActivationKind::relu:
      return {0.0, up > 0.0 ? 1.0 : 0.0};
    case ActivationKind::situ: {
      const double s = plain_sigmoid(gate), in = bounded(gate, c.situ_beta);
      return {(bounded_slope(gate, c.situ_beta) * s + in * s * (1.0 - s)) * bounded(up, c.situ_linear_beta),
              in * s * bounded_slope(up, c.situ_linear_beta)};
    }
    case ActivationKind::relu2:
      break;
  }
  return {0.0, up > 0.0 ? 2.0 * up : 0.0};
}

NamedTensors plain_experts(const Call& call, const ExpertsParts& parts) {
  return is(call, Component::mlp) ? run_mlp(call, parts) : run_experts(call, parts);
}

NamedTensors with_parts(Implementation& sound, const Call& call, const ExpertsParts& parts) {
  NamedTensors out = sound.run(call);
  if (is_one_of(call, {Component::experts, Component::mlp}))
    add_difference(out, plain_experts(call, parts), plain_experts(call, {}), {"outputs/", "grads/"});
  return out;
}

}  // namespace moeref
