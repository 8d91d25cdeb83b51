#include "reference_cpu/components/normalisation.hpp"

#include <cmath>

namespace moeref {
namespace {

/// max(sum, m). A small m may vanish in the type of the sum.
Real at_least(Real sum, double m) {
  Real out = clamp(sum, m, INFINITY);
  if (m > 0.0) out.error += out.held.tiny;
  return out;
}

/// What a row is divided by, in the row's precision, and its slope by the sum over the row.
struct Denominator {
  Real value, slope;
};
Denominator denominator(const MoEConfig& c, std::span<const Real> row) {
  const Precision held = row[0].held;
  Sum all(finer(held, precision(DType::float32)));
  for (const Real a : row) all += a;
  const Real sum = store(all.total(), held);
  if (c.norm_denominator == NormDenominator::max_of_sum_and_eps)
    return {at_least(sum, c.norm_eps), inside(sum, c.norm_eps, INFINITY)};
  return {sum + c.norm_eps, known(1.0, held)};
}

}  // namespace

std::vector<Real> normalise(const MoEConfig& c, std::span<const Real> row) {
  if (row.empty()) return {};
  const Real sum = denominator(c, row).value;
  std::vector<Real> out;
  for (const Real a : row) out.push_back(a / sum);
  return out;
}

bool may_divide_by_zero(const MoEConfig& c, std::span<const Real> row) {
  const Real sum = denominator(c, row).value;
  return !(std::abs(sum.value) > sum.error);
}

NormaliseGradient normalise_gradient(const MoEConfig& c, std::span<const Real> row,
                                     std::span<const Real> cotangent) {
  if (row.empty()) return {};
  const auto [total, slope] = denominator(c, row);
  Sum inner(finer(total.held, precision(DType::float32)));
  NormaliseGradient out;
  for (std::size_t i = 0; i < row.size(); ++i) {
    inner += -cotangent[i] * (row[i] / total / total);
    out.direct.push_back(cotangent[i] / total);
  }
  out.through_sum = store(inner.total(), total.held);
  // Where the sum is surely the smaller or the larger of the two, nothing more is rounded.
  if (slope.error > 0.0)
    out.through_sum.error += std::abs(out.through_sum.value);
  else if (slope.value == 0.0)
    out.through_sum = known(0.0, total.held);
  return out;
}

}  // namespace moeref
