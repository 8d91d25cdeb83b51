#include "mlp.hpp"

#include <algorithm>

#include "activation.hpp"

namespace example {
namespace {

/// A Linear: weight [out, in] and maybe a bias.
struct Linear {
  const Call& call;
  std::string name;  ///< "shared_experts.up_proj"
  bool biased;
  long out, in;
  std::vector<float> weight = call.floats("params/" + name + ".weight");

  Matrix forward(const Matrix& x) const {
    Matrix y = product_transposed(x, weight.data(), out);
    if (biased) add_row(y, call.floats("params/" + name + ".bias").data());
    store(y);
    return y;
  }

  /// Writes the parameters' gradients; returns that of x.
  Matrix backward(const Matrix& x, const Matrix& dy) const {
    Matrix d_weight(out, in);
    add_outer(dy, x, d_weight.v.data());
    call.write_total("grads/" + name + ".weight", d_weight.v);
    std::vector<float> d_bias(static_cast<std::size_t>(out));
    add_rows(dy, d_bias.data());
    if (biased) call.write_total("grads/" + name + ".bias", d_bias);
    return product(dy, weight.data(), in);
  }
};

}  // namespace

Matrix run_mlp(const Call& call, const std::string& prefix, const MLPShape& s, const Matrix& x,
               const Matrix* dy, Matrix* d_x) {
  const Activation activation = Activation::of_mlp(s.activation, s.swiglu_limit);
  const Linear up{call, prefix + "up_proj", s.bias, s.width, s.dim};
  const Linear down{call, prefix + "down_proj", s.bias, s.dim, s.width};
  const Linear gate = activation.gated() ? Linear{call, prefix + "gate_proj", s.bias, s.width, s.dim} : up;

  // Gate and up side by side, as the experts have them.
  const Matrix u = up.forward(x), g = activation.gated() ? gate.forward(x) : Matrix();
  Matrix h(x.rows, activation.columns(s.width)), act(x.rows, s.width);
  for (long r = 0; r < x.rows; ++r) {
    if (activation.gated()) std::copy_n(g.row(r), s.width, h.row(r));
    std::copy_n(u.row(r), s.width, h.row(r) + h.cols - s.width);
    activation.forward(h.row(r), s.width, act.row(r));
  }
  store(act);
  Matrix y = down.forward(act);
  if (!dy) return y;

  Matrix d_act = down.backward(act, *dy);
  store(d_act);
  Matrix d_h(h.rows, h.cols), d_g(x.rows, activation.gated() ? s.width : 0), d_u(x.rows, s.width);
  for (long r = 0; r < x.rows; ++r) {
    activation.backward(h.row(r), s.width, d_act.row(r), d_h.row(r));
    if (activation.gated()) std::copy_n(d_h.row(r), s.width, d_g.row(r));
    std::copy_n(d_h.row(r) + h.cols - s.width, s.width, d_u.row(r));
  }
  store(d_u);
  *d_x = up.backward(x, d_u);
  if (activation.gated()) {
    store(d_g);
    add(*d_x, gate.backward(x, d_g));
  }
  return y;
}

}  // namespace example
