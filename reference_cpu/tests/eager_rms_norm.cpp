// The eager port's rows over their root mean square: of the gate's tokens, and of the latent size.
#include <cmath>

#include "reference_cpu/tests/eager_port.hpp"

namespace moeref::eager {
namespace {

/// What rms-norm without a weight makes of a row in float, and the factor that it multiplies by.
Row normed(const Row& x, double eps, DType stored, Order order, Num& by) {
  Row squares, out;
  for (const Num a : x) squares.push_back(square(cast(a, DType::float32)));
  const Num mean = sum(squares, DType::float32, order) / static_cast<double>(x.size()) + eps;
  by = apply(mean, [](auto v) { return static_cast<decltype(v)>(std::pow(v, -0.5f)); });
  for (const Num a : x) out.push_back(cast(cast(a, DType::float32) * by, stored));
  return out;
}

}  // namespace

Matrix rms_norm(const Workspace& w, const Matrix& x, const Matrix& weight, double eps, double factor,
                DType stored) {
  Matrix out = w.make(x.rows, x.cols, stored);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Num by;
    const Row n = normed(x.row(t), eps, x.read, w.o.order, by);
    for (std::int64_t i = 0; i < x.cols; ++i)
      out.set(t, i, n[static_cast<std::size_t>(i)] * weight.at(0, i) * factor);
  }
  return out;
}

Matrix rms_norm_gradient(const Workspace& w, const Matrix& x, const Matrix& weight, double eps, double factor,
                         const Matrix& d, Matrix& to_weight) {
  const DType f = DType::float32, scaled = common(x.read, weight.read);
  Matrix dx = w.make(x.rows, x.cols, x.stored);
  to_weight = w.make(x.rows, x.cols, common(x.stored, weight.stored));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Num by;
    const Row n = normed(x.row(t), eps, x.read, w.o.order, by);
    Row dn, products;
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Num by_scaled = cast(d.at(t, i), scaled) * factor;
      to_weight.set(t, i, by_scaled * n[static_cast<std::size_t>(i)]);
      dn.push_back(cast(cast(by_scaled * weight.at(0, i), x.read), f));
      products.push_back(dn.back() * cast(x.at(t, i), f));
    }
    // The power's gradient, then the mean's and the square's.
    const Num d_mean = sum(products, f, w.o.order) * -0.5 * (by * by * by);
    const Num each = d_mean / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i)
      dx.set(t, i, dn[static_cast<std::size_t>(i)] * by + each * 2.0 * cast(x.at(t, i), f));
  }
  return dx;
}

}  // namespace moeref::eager
