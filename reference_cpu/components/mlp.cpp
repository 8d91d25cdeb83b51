#include "reference_cpu/components/mlp.hpp"

#include "reference_cpu/arithmetic/product.hpp"
#include "reference_cpu/components/activation.hpp"

namespace moeref {
namespace {

const Bounded* pointer(const std::optional<Bounded>& m) { return m ? &*m : nullptr; }

}  // namespace

MLPParams load_mlp(const MLPConfig& c, const NamedTensors& tensors, const std::string& prefix,
                   DType compute) {
  const auto read = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    return load(require(tensors, prefix + name), 0, rows, cols, compute);
  };
  MLPParams p;
  if (facts(c.activation).gated) {
    p.gate_weight = read("gate_proj.weight", c.inter_dim, c.dim);
    if (c.bias) p.gate_bias = read("gate_proj.bias", 1, c.inter_dim);
  }
  p.up_weight = read("up_proj.weight", c.inter_dim, c.dim);
  p.down_weight = read("down_proj.weight", c.dim, c.inter_dim);
  if (c.bias) {
    p.up_bias = read("up_proj.bias", 1, c.inter_dim);
    p.down_bias = read("down_proj.bias", 1, c.dim);
  }
  return p;
}

MLPForward mlp_forward(const MLPConfig& c, const CallOptions& o, const MLPParams& p, const Bounded& x) {
  const Sums sums = sums_of(x.dtype, o.float32_products);
  const Activation& act = activation(c.activation);
  const ActivationParams act_params = activation_params(c);
  MLPForward f;
  if (act.gated()) f.gate = linear(x, *p.gate_weight, pointer(p.gate_bias), sums, x.dtype);
  f.up = linear(x, p.up_weight, pointer(p.up_bias), sums, x.dtype);
  f.activation = Bounded(f.up.rows, f.up.cols, x.dtype);
  for (std::int64_t i = 0; i < f.up.rows * f.up.cols; ++i)
    f.activation.set(i, act.value(act.gated() ? f.gate->at(i) : Real{}, f.up.at(i), act_params));
  f.y = linear(f.activation, p.down_weight, pointer(p.down_bias), sums, x.dtype);
  return f;
}

MLPBackward mlp_backward(const MLPConfig& c, const CallOptions& o, const MLPParams& p, const Bounded& x,
                         const MLPForward& f, const Bounded& dy, RankRows ranks) {
  const Activation& act = activation(c.activation);
  const ActivationParams act_params = activation_params(c);
  const Sums sums = sums_of(x.dtype, o.float32_products);
  // d Linear / d weight = dy^T x, d bias = sum of dy over tokens; in the parameter's own dtype.
  const auto of_weight = [&](const Bounded& d, const Bounded& in) {
    return weight_gradient(d, in, sums, x.dtype, x.dtype, ranks);
  };
  MLPBackward out;

  const Bounded d_activation = multiply(dy, false, p.down_weight, false, sums, x.dtype);
  out.params.down_weight = of_weight(dy, f.activation);
  if (c.bias) out.params.down_bias = bias_gradient(dy, x.dtype, x.dtype, ranks);

  Bounded d_gate(f.up.rows, act.gated() ? f.up.cols : 0, x.dtype), d_up(f.up.rows, f.up.cols, x.dtype);
  for (std::int64_t i = 0; i < f.up.rows * f.up.cols; ++i) {
    const auto [dg, du] =
        act.gradient(act.gated() ? f.gate->at(i) : Real{}, f.up.at(i), d_activation.at(i), act_params);
    if (act.gated()) d_gate.set(i, dg);
    d_up.set(i, du);
  }
  out.params.up_weight = of_weight(d_up, x);
  if (c.bias) out.params.up_bias = bias_gradient(d_up, x.dtype, x.dtype, ranks);
  out.x.push_back(multiply(d_up, false, p.up_weight, false, sums, x.dtype));
  if (act.gated()) {
    out.params.gate_weight = of_weight(d_gate, x);
    if (c.bias) out.params.gate_bias = bias_gradient(d_gate, x.dtype, x.dtype, ranks);
    out.x.push_back(multiply(d_gate, false, *p.gate_weight, false, sums, x.dtype));
  }
  return out;
}

}  // namespace moeref
