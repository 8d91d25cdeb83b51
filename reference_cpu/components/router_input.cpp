#include "reference_cpu/components/router_input.hpp"

#include <cmath>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

/// 1 / sqrt(mean x^2 + eps) of a token.
Real inverse_root(const MoEConfig& c, const Bounded& x, std::int64_t t) {
  Sum squares(kFloat);
  for (std::int64_t i = 0; i < x.cols; ++i) {
    const Real a = store(x.at(t, i), kFloat);
    squares += a * a;
  }
  const Real mean = squares.total() / static_cast<double>(x.cols) + c.router_input_norm_eps;
  return constant(1.0, kFloat) / sqrt(mean);
}

double root(const Bounded& x) { return 1.0 / std::sqrt(static_cast<double>(x.cols)); }

}  // namespace

Bounded jittered(const Bounded& x, const Bounded& noise) {
  Bounded out(x.rows, x.cols, x.dtype);
  parallel_for(x.rows, [&](std::int64_t t) {
    for (std::int64_t i = 0; i < x.cols; ++i) out.set(t, i, x.at(t, i) * noise.at(t, i));
  });
  return out;
}

const Bounded& seen_tokens(const Bounded& x, const std::optional<Bounded>& noise, Bounded& held) {
  return noise ? held = jittered(x, *noise) : x;
}

Bounded router_input(const MoEConfig& c, const Bounded& x, const Bounded& scale, DType compute) {
  if (!c.router_input_norm) return cast(x, compute);
  Bounded out(x.rows, x.cols, compute);
  parallel_for(x.rows, [&](std::int64_t t) {
    const Real inverse = inverse_root(c, x, t);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Real normed = store(store(x.at(t, i), kFloat) * inverse, precision(x.dtype));
      out.set(t, i, normed * scale.at(i) * root(x));
    }
  });
  return out;
}

RouterInputBackward router_input_backward(const MoEConfig& c, const Bounded& x, const Bounded& scale,
                                          const Bounded& d) {
  const Precision held = precision(x.dtype), scaled = finer(held, precision(scale.dtype));
  RouterInputBackward out{
      Bounded(x.rows, x.cols, x.dtype),
      Bounded(x.rows, x.cols, held.unit < precision(scale.dtype).unit ? x.dtype : scale.dtype)};
  parallel_for(x.rows, [&](std::int64_t t) {
    const Real inverse = inverse_root(c, x, t);
    std::vector<Real> to_normed;
    Sum inner(kFloat);
    for (std::int64_t i = 0; i < x.cols; ++i) {
      const Real a = store(x.at(t, i), kFloat), by_scaled = store(d.at(t, i), scaled) * root(x);
      out.scale_rows.set(t, i, by_scaled * store(a * inverse, held));
      to_normed.push_back(store(store(by_scaled * scale.at(i), held), kFloat));
      inner += to_normed.back() * a;
    }
    // d x_i = r d_i - x_i r^3 / D sum_j d_j x_j, r the inverse root.
    const Real through = inner.total() * (inverse * inverse * inverse) / static_cast<double>(x.cols);
    for (std::int64_t i = 0; i < x.cols; ++i)
      out.x.set(t, i, to_normed[static_cast<std::size_t>(i)] * inverse - store(x.at(t, i), kFloat) * through);
  });
  return out;
}

}  // namespace moeref
