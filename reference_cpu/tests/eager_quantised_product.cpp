// Products of quantised operands as kernels of models make them, in float: by a port that rounds code times
// scale and multiplies numbers, and by a fused one that adds up codes and scales each group's sum.
#include <algorithm>
#include <cmath>

#include "reference_cpu/tests/eager_port.hpp"

namespace moeref::eager {
namespace {

float code_of(float quotient) {
  return static_cast<float>(round_bits(std::clamp(quotient, -448.0f, 448.0f), 4, -6, 448.0));
}

/// Whether a port multiplies by reciprocals, as fused kernels do, or divides.
float scale_of(ScaleRule rule, float m, bool reciprocals) {
  if (rule == ScaleRule::power_below) return std::ldexp(1.0f, static_cast<int>(std::floor(std::log2(m))) - 8);
  const float quotient = reciprocals ? m * (1.0f / 448.0f) : m / 448.0f;
  if (rule == ScaleRule::quotient) return quotient;
  int exponent = 0;
  const float fraction = std::frexp(quotient, &exponent);  // in [1/2, 1)
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

struct Groups {
  std::vector<float> codes, scales;  ///< [K], [K / group] rounded up
};

Groups quantised(const ActivationFormatFacts& f, const Matrix& rows, std::int64_t row, bool reciprocals) {
  Groups out;
  for (std::int64_t first = 0; first < rows.cols; first += f.group) {
    const std::int64_t end = std::min(first + f.group, rows.cols);
    float m = 0.0f;
    for (std::int64_t k = first; k < end; ++k)
      m = std::max(m, std::abs(static_cast<float>(rows.at(row, k).v)));
    const float scale = m == 0.0f ? 1.0f : scale_of(f.scale, m, reciprocals), inverse = 1.0f / scale;
    out.scales.push_back(scale);
    for (std::int64_t k = first; k < end; ++k) {
      const auto number = static_cast<float>(rows.at(row, k).v);
      out.codes.push_back(code_of(reciprocals ? number * inverse : number / scale));
    }
  }
  return out;
}

}  // namespace

Matrix Workspace::quantised_product(const Matrix& rows, const Matrix& weights, DType t) const {
  if (activations == ActivationFormat::none) return multiply(rows, false, weights, false, t);
  const ActivationFormatFacts& f = facts(activations);
  Matrix numbers(rows.rows, rows.cols, wide(t), false), out = make(rows.rows, weights.cols, t);
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    const Groups groups = quantised(f, rows, row, o.fused);
    for (std::int64_t k = 0; k < rows.cols; ++k)
      numbers.set(
          row, k,
          {groups.codes[static_cast<std::size_t>(k)] * groups.scales[static_cast<std::size_t>(k / f.group)]});
    for (std::int64_t n = 0; o.fused && n < weights.cols; ++n) {
      float total = 0.0f;
      for (std::int64_t first = 0; first < rows.cols; first += f.group) {
        std::vector<float> terms;
        for (std::int64_t k = first; k < std::min(first + f.group, rows.cols); ++k)
          terms.push_back(groups.codes[static_cast<std::size_t>(k)] * static_cast<float>(weights.at(k, n).v));
        total += add_up(terms.data(), terms.size(), o.order) *
                 groups.scales[static_cast<std::size_t>(first / f.group)];
      }
      out.set(row, n, {total});
    }
  }
  return o.fused ? out : multiply(numbers, false, weights, false, t);
}

}  // namespace moeref::eager
