#include "reference_cpu/components/rms_norm.hpp"

#include <algorithm>
#include <cmath>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

/// 1 / sqrt(mean x^2 + eps) of a row.
Real inverse_root(const Bounded& x, std::int64_t t, double eps) {
  Sum squares(kFloat);
  for (std::int64_t i = 0; i < x.cols; ++i) {
    const Real a = store(x.at(t, i), kFloat);
    squares += a * a;
  }
  const Real mean = squares.total() / static_cast<double>(x.cols) + eps;
  Real out = constant(1.0, kFloat) / sqrt(mean);
  // Whatever x's bounds leave open, no mean square is below 0: the root is eps's at least.
  const double most = (1.0 + 16.0 * kFloat.unit) / std::sqrt(eps);
  if (std::isfinite(mean.error)) out.error = std::min(out.error, std::max(out.value, most - out.value));
  return out;
}

}  // namespace

Bounded rms_norm(const Bounded& x, const Bounded& weight, double eps, double factor, DType type) {
  Bounded out(x.rows, x.cols, type);
  parallel_for(x.rows, [&](std::int64_t t) {
    const Real inverse = inverse_root(x, t, eps);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Real normed = store(store(x.at(t, i), kFloat) * inverse, precision(x.dtype));
      out.set(t, i, normed * weight.at(i) * factor);
    }
  });
  return out;
}

RMSNormBackward rms_norm_backward(const Bounded& x, const Bounded& weight, double eps, double factor,
                                  const Bounded& d) {
  const Precision held = precision(x.dtype), scaled = finer(held, precision(weight.dtype));
  RMSNormBackward out{
      Bounded(x.rows, x.cols, x.dtype),
      Bounded(x.rows, x.cols, held.unit < precision(weight.dtype).unit ? x.dtype : weight.dtype)};
  parallel_for(x.rows, [&](std::int64_t t) {
    const Real inverse = inverse_root(x, t, eps);
    std::vector<Real> to_normed;
    Sum inner(kFloat);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Real a = store(x.at(t, i), kFloat), by_weight = store(d.at(t, i), scaled) * factor;
      out.weight_rows.set(t, i, by_weight * store(a * inverse, held));
      to_normed.push_back(store(store(by_weight * weight.at(i), held), kFloat));
      inner += to_normed.back() * a;
    }
    // d x_i = r d_i - x_i r^3 / C sum_j d_j x_j, r the inverse root.
    const Real through = inner.total() * (inverse * inverse * inverse) / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i)
      out.x.set(t, i, to_normed[static_cast<std::size_t>(i)] * inverse - store(x.at(t, i), kFloat) * through);
  });
  return out;
}

}  // namespace moeref
