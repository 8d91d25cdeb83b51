// The gate's input of the eager port: its noise and its root-mean-square norm, and the way back through both.
#include <cmath>

#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {

Matrix jittered(const Workspace& w, const Matrix& x, const Tensor& noise) {
  const Matrix n = w.load(noise, x.cols, noise.dtype());
  Matrix out = w.make(x.rows, x.cols, x.stored);
  for (std::int64_t t = 0; t < x.rows; ++t)
    for (std::int64_t i = 0; i < x.cols; ++i) out.set(t, i, x.at(t, i) * n.at(t, i));
  return out;
}

namespace {

/// What rms-norm without a weight makes of a token in float, and the factor that it multiplies by.
Row normed(const MoEConfig& c, const Row& x, DType stored, Order order, Num& factor) {
  Row squares, out;
  for (const Num a : x) squares.push_back(square(cast(a, DType::float32)));
  const Num mean =
      sum(squares, DType::float32, order) / static_cast<double>(x.size()) + c.router_input_norm_eps;
  factor = apply(mean, [](auto v) { return static_cast<decltype(v)>(std::pow(v, -0.5f)); });
  for (const Num a : x) out.push_back(cast(cast(a, DType::float32) * factor, stored));
  return out;
}

double inverse_root(const MoEConfig& c) { return 1.0 / std::sqrt(static_cast<double>(c.dim)); }

}  // namespace

Matrix normed_input(const Workspace& w, const MoEConfig& c, const Matrix& x, const Tensor& scale,
                    DType compute) {
  Matrix out = w.make(x.rows, x.cols, compute);
  const Matrix s = w.load(scale, 0, 1, c.dim, scale.dtype());
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Num factor;
    const Row n = normed(c, x.row(t), x.read, w.o.order, factor);
    for (std::int64_t i = 0; i < x.cols; ++i)
      out.set(t, i, n[static_cast<std::size_t>(i)] * s.at(0, i) * inverse_root(c));
  }
  return out;
}

Matrix normed_input_gradient(const Workspace& w, const MoEConfig& c, const Matrix& x, const Tensor& scale,
                             const Matrix& d, const std::string& name, NamedTensors& out) {
  const DType f = DType::float32;
  const Matrix s = w.load(scale, 0, 1, c.dim, scale.dtype());
  const DType scaled = common(x.read, s.read);
  Matrix dx = w.make(x.rows, x.cols, x.stored), to_scale = w.make(x.rows, x.cols, common(x.stored, s.stored));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Num factor;
    const Row n = normed(c, x.row(t), x.read, w.o.order, factor);
    Row dn, products;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Num by_scaled = cast(d.at(t, i), scaled) * inverse_root(c);
      to_scale.set(t, i, by_scaled * n[static_cast<std::size_t>(i)]);
      dn.push_back(cast(cast(by_scaled * s.at(0, i), x.read), f));
      products.push_back(dn.back() * cast(x.at(t, i), f));
    }
    // The power's gradient, then the mean's and the square's.
    const Num d_mean = sum(products, f, w.o.order) * -0.5 * (factor * factor * factor);
    const Num each = d_mean / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i)
      dx.set(t, i, dn[static_cast<std::size_t>(i)] * factor + each * 2.0 * cast(x.at(t, i), f));
  }
  if (!name.empty()) out[name] = to_tensor(w.sum_rows(to_scale), scale.shape(), scale.dtype());
  return dx;
}

}  // namespace moeref::eager
