// What several tests expect values with: types, special values, and the message of an error.
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "moeref/error.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

constexpr DType kDTypes[] = {DType::float64, DType::float32, DType::bfloat16, DType::float16,
                             DType::int64,   DType::boolean, DType::uint8};

inline const Precision kDouble = precision(DType::float64), kBf16 = precision(DType::bfloat16);

/// A row of values with the same error bound.
inline std::vector<Real> row(std::initializer_list<double> values, double error = 0.0,
                             Precision held = kDouble) {
  std::vector<Real> out;
  for (const double v : values) out.push_back({v, error, held});
  return out;
}

inline double sigma(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// The message of the InputError that a call of `body` throws.
std::string error_of(auto&& body) {
  try {
    body();
  } catch (const InputError& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace moeref
