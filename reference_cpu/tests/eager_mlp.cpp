// The eager port's MLP, and shared experts.
#include "reference_cpu/tests/eager_port.hpp"

namespace moeref::eager {

Matrix mlp(const Workspace& w, const MLPConfig& c, const NamedTensors& tensors, const std::string& prefix,
           const Matrix& x, const Matrix* dy, std::vector<Matrix>& dx_parts, NamedTensors& out) {
  const DType t = x.stored;
  const bool gated = facts(c.activation).gated;
  const auto weight = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return w.load(require(tensors, prefix + name), 0, rows, cols, t);
  };
  const auto project = [&](const char* name, const Matrix& from, const Matrix& matrix) {
    if (!c.bias) return w.linear(from, matrix, nullptr);
    const Matrix bias = weight((std::string(name) + ".bias").c_str(), 1, matrix.rows);
    return w.linear(from, matrix, &bias);
  };
  const Matrix up_weight = weight("up_proj.weight", c.inter_dim, c.dim),
               down_weight = weight("down_proj.weight", c.dim, c.inter_dim);
  const Matrix gate_weight = gated ? weight("gate_proj.weight", c.inter_dim, c.dim) : Matrix();
  const Matrix gate = gated ? project("gate_proj", x, gate_weight) : Matrix(),
               up = project("up_proj", x, up_weight);

  // The activation is that of the experts, halves side by side, with a weight of 1.
  MoEConfig act;
  act.expert_activation = c.activation;
  act.swiglu_limit = c.swiglu_limit;
  act.situ_beta = c.situ_beta, act.situ_linear_beta = c.situ_linear_beta;
  const auto h = [&](std::int64_t r) {
    std::vector<Num> row = gated ? gate.row(r) : std::vector<Num>{};
    for (const Num a : up.row(r)) row.push_back(a);
    return row;
  };
  Matrix a = w.make(x.rows, c.inter_dim, t);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto row = activate(act, h(r), {1.0, t});
    for (std::int64_t i = 0; i < c.inter_dim; ++i) a.set(r, i, row[static_cast<std::size_t>(i)]);
  }
  const Matrix y = project("down_proj", a, down_weight);
  if (!dy) return y;

  const auto put = [&](const char* name, const Matrix& d, const Matrix& from) {
    const std::string base = prefix + name, to = "grads/" + base.substr(base.find('/') + 1);
    const Tensor& param = require(tensors, base + ".weight");
    out[to + ".weight"] = to_tensor(w.multiply(d, true, from, false, t), param.shape(), param.dtype());
    if (!c.bias) return;
    const Tensor& bias = require(tensors, base + ".bias");
    out[to + ".bias"] = to_tensor(w.sum_rows(d), bias.shape(), bias.dtype());
  };
  const Matrix d_act = w.multiply(*dy, false, down_weight, false, t);
  put("down_proj", *dy, a);
  Matrix d_gate = w.make(x.rows, gated ? c.inter_dim : 0, t), d_up = w.make(x.rows, c.inter_dim, t);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    Num unused;
    const auto back = activation_gradient(act, h(r), {1.0, t}, d_act.row(r), w.o.order, t, unused);
    for (std::int64_t i = 0; i < c.inter_dim; ++i) {
      if (gated) d_gate.set(r, i, back[static_cast<std::size_t>(i)]);
      d_up.set(r, i, back[static_cast<std::size_t>(gated ? c.inter_dim + i : i)]);
    }
  }
  put("up_proj", d_up, x);
  dx_parts.push_back(w.multiply(d_up, false, up_weight, false, t));
  if (gated) {
    put("gate_proj", d_gate, x);
    dx_parts.push_back(w.multiply(d_gate, false, gate_weight, false, t));
  }
  return y;
}

}  // namespace moeref::eager
