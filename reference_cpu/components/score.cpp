#include "reference_cpu/components/score.hpp"

#include <array>

#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref {
namespace {

using Row = std::vector<Real>;

Row softmax_scores(std::span<const Real> z, Precision p) { return softmax(z, p); }
Row softmax_back(std::span<const Real>, std::span<const Real> s, std::span<const Real> d) {
  return softmax_gradient(s, d);
}

Row sigmoid_scores(std::span<const Real> z, Precision p) {
  Row s;
  for (const Real a : z) s.push_back(sigmoid(store(a, p)));
  return s;
}
Row sigmoid_back(std::span<const Real>, std::span<const Real> s, std::span<const Real> d) {
  Row dz;
  for (std::size_t i = 0; i < s.size(); ++i) dz.push_back(d[i] * (1.0 - s[i]) * s[i]);
  return dz;
}

// sqrt(softplus(z)) in fp32 under every gate_precision: the documented system casts to float32 here.
Real in_float(Real z) { return store(z, kFloat); }

Row sqrtsoftplus_scores(std::span<const Real> z, Precision) {
  Row s;
  for (const Real a : z) s.push_back(sqrt(softplus(in_float(a))));
  return s;
}
Row sqrtsoftplus_back(std::span<const Real> z, std::span<const Real> s, std::span<const Real> d) {
  Row dz;
  for (std::size_t i = 0; i < s.size(); ++i) {
    dz.push_back(d[i] / (s[i] * 2.0) * sigmoid(in_float(z[i])));
    // Where S underflows, the documented system divides by 0; the limit of the gradient is 0.
    if (s[i].value == 0.0) dz.back() = {0.0, INFINITY, dz.back().held};
  }
  return dz;
}

constexpr auto kScoreRules = std::to_array<ScoreRule>({
    {ScoreFunc::softmax, softmax_scores, softmax_back},
    {ScoreFunc::sigmoid, sigmoid_scores, sigmoid_back},
    {ScoreFunc::sigmoid_with_bias, sigmoid_scores, sigmoid_back},
    {ScoreFunc::softmax_with_bias, softmax_scores, softmax_back},
    {ScoreFunc::sqrtsoftplus, sqrtsoftplus_scores, sqrtsoftplus_back},
});
static_assert(has_row_per_enumerator<kScoreRules>());

/// exp(z_i - max z) with relative error bounds: `relative[i]` bounds |log(computed / exact)|.
struct Shifted {
  std::vector<double> value, relative;
};

Shifted shifted_exponentials(std::span<const Real> z, Precision p) {
  double largest = -INFINITY;
  for (const Real a : z) largest = std::isnan(a.value) ? a.value : std::max(largest, a.value);
  Shifted out;
  const double unit = std::min(p.unit, 0x1p-24 + 0x1p-53);
  for (const Real a : z) {
    out.value.push_back(exact::exp(a.value - largest));
    // Logits of a finer type are rounded to the softmax's own first.
    const double error = store(a, p).error;
    out.relative.push_back(error + unit * (std::abs(a.value - largest) + error) + 4.0 * unit);
  }
  return out;
}

/// v (exp(relative) - 1), but 1 at most. Where the logits' errors are infinite the score may be any number or
/// NaN, and this is infinite.
double spread(double v, double relative) {
  if (!(relative < INFINITY)) return INFINITY;
  const double error = v * growth(relative);
  return error < 1.0 ? error : 1.0;
}

}  // namespace

const ScoreRule& score_rule(ScoreFunc kind) { return kScoreRules[static_cast<std::size_t>(kind)]; }

Row softmax(std::span<const Real> z, Precision p) {
  const Shifted t = shifted_exponentials(z, p);
  double sum = 0.0;
  for (const double v : t.value) sum += v;
  double sum_error = gamma(static_cast<std::int64_t>(z.size()), std::min(p.unit, 0x1p-24 + 0x1p-53));
  bool bounded = true;
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double error = t.value[i] / sum * growth(t.relative[i]);
    if (error > 0.0) sum_error += error;  // else exp(...) may be 0 and growth infinite
    bounded = bounded && t.relative[i] < INFINITY;
  }
  Row s;
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double v = t.value[i] / sum;
    const double error = sum_error < 1.0 ? v * (growth(t.relative[i]) + sum_error) / (1.0 - sum_error) : 1.0;
    // No score exceeds 1 while the logits' errors are finite; where they are infinite it may be NaN.
    s.push_back(Real{v, !bounded ? INFINITY : error < 1.0 ? error : 1.0, p}.rounded());
    s.back().error += p.tiny;
  }
  return s;
}

Real log_sum_exp(std::span<const Real> z, Precision p) {
  const Shifted t = shifted_exponentials(z, p);
  double largest = -INFINITY, sum = 0.0, relative = gamma(static_cast<std::int64_t>(z.size()), p.unit);
  for (const Real a : z) largest = std::isnan(a.value) ? a.value : std::max(largest, a.value);
  for (const double v : t.value) sum += v;
  // The function moves by no more than its arguments do: the errors of the logits are in `relative` once, and
  // shift the largest one and the sum against each other where an implementation takes another for the
  // largest.
  for (std::size_t i = 0; i < z.size(); ++i) {
    const double error = t.value[i] / sum * growth(t.relative[i]);
    if (!(error <= 0.0)) relative += error;
  }
  const double moved = relative < 0.5 ? relative / (1.0 - relative) : INFINITY;
  return known(largest, p) + evaluated(exact::log(sum), moved, p);
}

Row unnormalised_softmax(std::span<const Real> z, Precision p) {
  const Shifted t = shifted_exponentials(z, p);
  Row s;
  for (std::size_t i = 0; i < z.size(); ++i)
    s.push_back(
        {t.value[i], spread(t.value[i], t.relative[i]) + 2.0 * p.unit * t.value[i] + 2.0 * p.tiny, p});
  return s;
}

Row softmax_gradient(std::span<const Real> s, std::span<const Real> d) {
  Sum inner(s.empty() ? Precision{} : s[0].held);
  for (std::size_t i = 0; i < s.size(); ++i) inner += s[i] * d[i];
  const Real sum = inner.total();
  Row dz;
  for (std::size_t i = 0; i < s.size(); ++i) {
    Real gradient = s[i] * (d[i] - sum);
    // Others compute s d - s sum, which has the rounding of both products, too.
    gradient.error +=
        gradient.held.unit * std::abs(s[i].value) * (std::abs(d[i].value) + std::abs(sum.value));
    dz.push_back(gradient);
  }
  return dz;
}

}  // namespace moeref
