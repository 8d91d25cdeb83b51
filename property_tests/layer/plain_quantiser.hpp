// The quantiser of rows written once more, in numbers (SPEC 11.1): what properties expect, and what mutants
// differ from.
#pragma once

#include <cmath>
#include <vector>

#include "moeref/activation_format.hpp"

namespace moeref {

/// The scale of a group whose largest absolute value is m, above 0.
double plain_scale(ScaleRule rule, double m);
/// The number of e4m3 that a quotient is rounded to, the nearest with ties to even unless said otherwise;
/// saturating.
double plain_code(double quotient, double (*rounded)(double) = std::nearbyint);
/// A row as the numbers that its codes and scales stand for.
std::vector<double> plain_quantised(const ActivationFormatFacts& format, std::vector<double> row);

}  // namespace moeref
