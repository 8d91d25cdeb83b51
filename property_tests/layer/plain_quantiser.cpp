#include "property_tests/layer/plain_quantiser.hpp"

#include <algorithm>
#include <span>

namespace moeref {

double plain_scale(ScaleRule rule, double m) {
  if (rule == ScaleRule::quotient) return static_cast<float>(m / 448.0);
  int exponent = 0;  // of m in [2^(exponent - 1), 2^exponent)
  const double fraction = std::frexp(m, &exponent);
  if (rule == ScaleRule::power_below) return std::ldexp(1.0, exponent - 9);
  return std::ldexp(1.0, fraction > 0.875 ? exponent - 8 : exponent - 9);  // 448 = 0.875 2^9
}

double plain_code(double quotient, double (*rounded)(double)) {
  const double size = std::min(std::abs(quotient), 448.0);
  int exponent = 0;
  std::frexp(size, &exponent);
  const double step = std::ldexp(1.0, std::max(exponent, -5) - 4);
  return std::copysign(rounded(size / step) * step, quotient);
}

std::vector<double> plain_quantised(const ActivationFormatFacts& f, std::vector<double> row) {
  for (std::size_t first = 0; first < row.size(); first += static_cast<std::size_t>(f.group)) {
    const std::span<double> group =
        std::span(row).subspan(first, std::min(static_cast<std::size_t>(f.group), row.size() - first));
    double m = 0.0;
    for (const double value : group) m = std::max(m, std::abs(value));
    if (m == 0.0) continue;
    const double scale = plain_scale(f.scale, m);
    for (double& value : group)
      value = plain_code(static_cast<float>(value) / static_cast<float>(scale)) * scale;
  }
  return row;
}

}  // namespace moeref
