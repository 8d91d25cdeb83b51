#include "reference_cpu/verdict/value_verdict.hpp"

#include <cmath>

namespace moeref {

double value_ratio(double value, double reference, double bound) {
  if (std::isfinite(reference) && std::isinf(bound)) return 0.0;
  if (std::isfinite(reference) != std::isfinite(value)) return INFINITY;
  if (!std::isfinite(reference))
    return std::isnan(reference) || std::isnan(value) || value == reference ? 0.0 : INFINITY;
  const double difference = std::abs(value - reference);
  if (difference == 0.0) return 0.0;
  return bound > 0.0 ? difference / bound : INFINITY;
}

}  // namespace moeref
