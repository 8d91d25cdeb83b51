// A number with its running error bound. The elementwise parts of the reference are written in this
// arithmetic.
//
// `value` is computed in fp64. `error` bounds how far the result of an honest implementation can be from it,
// when every operation rounds to the precision that the documented system holds that number in (Higham,
// Accuracy and Stability of Numerical Algorithms, 2002, 3.3: running error analysis). Operands of two
// precisions give the finer one, as PyTorch promotes. Each unit roundoff has 2^-53 added to it, so that the
// bound also covers the reference's own rounding. Where a number may pass the largest of its precision, its
// bound is infinite, and so is that of every number computed from it: an honest implementation may have an
// infinity there, or a NaN, and any value passes.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "moeref/dtype.hpp"
#include "reference_cpu/arithmetic/exact_math.hpp"

namespace moeref {

/// What rounding to a type can do: a relative error of `unit`, an absolute error of `tiny` where results
/// underflow, and infinity beyond `largest`.
struct Precision {
  double unit = 0x1p-53;
  double tiny = 0.0;
  double largest = std::numeric_limits<double>::max();
};

inline Precision precision(DType dtype) {
  return {unit_roundoff(dtype) + 0x1p-53, underflow(dtype), largest(dtype)};
}

inline const Precision kFloat = precision(DType::float32);

inline Precision finer(Precision a, Precision b) { return a.unit < b.unit ? a : b; }

struct Real {
  double value = 0.0;
  double error = 0.0;
  Precision held;  ///< the precision in which the documented system holds it

  /// Adds the rounding of one operation to the bound. An exact zero alone is known to be stored exactly.
  Real rounded() const {
    const double reach = std::abs(value) + error;
    const double bound = error + held.unit * reach + (reach == 0.0 ? 0.0 : held.tiny);
    return {value, reach <= held.largest ? bound : INFINITY, held};
  }
};

/// An exact value held in a precision.
inline Real known(double value, Precision held) { return {value, 0.0, held}; }

/// The number stored in a precision: rounded where that is coarser or has the smaller range, else exact.
inline Real store(Real a, Precision to) {
  const bool rounds = to.unit > a.held.unit || to.largest < a.held.largest;
  a.held = to;
  return rounds ? a.rounded() : a;
}

/// The same number, held in `to` if that is finer, as by `.float()`: exact.
inline Real widen(Real a, Precision to) {
  a.held = finer(a.held, to);
  return a;
}

inline Real operator-(Real a) { return {-a.value, a.error, a.held}; }

inline Real operator+(Real a, Real b) {
  const Real sum{a.value + b.value, a.error + b.error, finer(a.held, b.held)};
  // Adding an exact zero is exact: terms that are masked or not selected add nothing to the bound.
  if ((a.value == 0.0 && a.error == 0.0) || (b.value == 0.0 && b.error == 0.0)) return sum;
  return sum.rounded();
}

inline Real operator-(Real a, Real b) { return a + (-b); }

inline Real operator*(Real a, Real b) {
  const double error = std::abs(a.value) * b.error + a.error * std::abs(b.value) + a.error * b.error;
  return Real{a.value * b.value, error, finer(a.held, b.held)}.rounded();
}

/// The bound is infinite where the divisor may be zero.
inline Real operator/(Real a, Real b) {
  const double quotient = a.value / b.value;
  const double room = std::abs(b.value) - b.error;
  const double error = a.error == 0.0 && b.error == 0.0 ? 0.0
                       : room > 0.0                     ? (a.error + std::abs(quotient) * b.error) / room
                                                        : INFINITY;
  return Real{quotient, error, finer(a.held, b.held)}.rounded();
}

/// A constant of the config takes the precision of the other operand, but fp32 at the coarsest, as scalars of
/// PyTorch do.
inline Real constant(double value, Precision other) {
  const Precision held = other.unit < 0x1p-30 ? other : precision(DType::float32);
  const bool representable = other.unit < 0x1p-30 || static_cast<double>(static_cast<float>(value)) == value;
  return {value, representable ? 0.0 : held.unit * std::abs(value), other};
}
inline Real operator+(Real a, double b) { return a + constant(b, a.held); }
inline Real operator+(double a, Real b) { return constant(a, b.held) + b; }
inline Real operator-(Real a, double b) { return a - constant(b, a.held); }
inline Real operator-(double a, Real b) { return constant(a, b.held) - b; }
inline Real operator*(Real a, double b) { return b == 1.0 ? a : a * constant(b, a.held); }
inline Real operator*(double a, Real b) { return b * a; }
inline Real operator/(Real a, double b) { return a / constant(b, a.held); }

/// The rounding of an elementary function: two ulps where it is evaluated, in fp32 or finer, and the rounding
/// to a coarser type.
inline Real evaluated(double value, double propagated, Precision held) {
  const double fine = std::min(held.unit, 0x1p-24 + 0x1p-53);
  const double unit = held.unit > fine ? held.unit + 4.0 * fine : 4.0 * fine;
  const double reach = std::abs(value) + propagated;
  return {value, reach <= held.largest ? propagated + unit * reach + held.tiny : INFINITY, held};
}

/// How far an argument's error can move a function whose slope is at most `slope` and whose values are at
/// most `range` apart. An argument with an infinite bound may be NaN, and so may the function.
inline double propagate(Real argument, double slope, double range) {
  return argument.error < INFINITY ? std::min(slope * argument.error, range) : INFINITY;
}

/// An upper bound of exp(e) - 1 for e >= 0.
inline double growth(double e) {
  if (e < 1.0) return e * (1.0 + e);  // e + e^2/2 + ... <= e + e^2 (e - 2) for e < 1
  return exact::exp(e) * (1.0 + 0x1p-50);
}

inline Real exp(Real a) {
  const double v = exact::exp(a.value);
  return evaluated(v, a.error < INFINITY ? v * growth(a.error) : INFINITY, a.held);
}

/// |s'| = s (1 - s) <= 1/4, which grows by a factor of at most exp(error) over the interval.
inline Real sigmoid(Real a) {
  const double v =
      a.value >= 0.0 ? 1.0 / (1.0 + exact::exp(-a.value)) : exact::exp(a.value) / (1.0 + exact::exp(a.value));
  const double slope = std::min(0.25, v * (1.0 - v) * (1.0 + growth(a.error)));
  return evaluated(v, propagate(a, slope, 1.0), a.held);
}

inline Real tanh(Real a) {
  const double v = exact::tanh(a.value);
  const double slope = std::min(1.0, (1.0 - v * v) * (1.0 + growth(2.0 * a.error)));
  return evaluated(v, propagate(a, slope, 2.0), a.held);
}

/// The slope 2 / sqrt(pi) exp(-a^2) is largest where the interval comes nearest to 0.
inline Real erf(Real a) {
  const double nearest = std::max(std::abs(a.value) - a.error, 0.0);
  const double slope = 0x1.20dd750429b6ep+0 * exact::exp(-nearest * nearest) * (1.0 + 0x1p-40);
  return evaluated(exact::erf(a.value), propagate(a, slope, 2.0), a.held);
}

/// log(1 + exp(a)), whose slope is sigmoid(a).
inline Real softplus(Real a) {
  const double v =
      a.value > 0.0 ? a.value + exact::log1p(exact::exp(-a.value)) : exact::log1p(exact::exp(a.value));
  const double s = 1.0 / (1.0 + exact::exp(-a.value));
  return evaluated(v, propagate(a, std::min(1.0, s * (1.0 + growth(a.error))), INFINITY), a.held);
}

inline Real sqrt(Real a) {
  const double v = std::sqrt(a.value);
  const double low = v - std::sqrt(std::max(a.value - a.error, 0.0));
  return evaluated(v, std::max(low, std::sqrt(a.value + a.error) - v), a.held);
}

/// A limit of the config. The documented system rounds it to the tensor's own type before it compares; other
/// implementations may not.
inline Real limit(double value, Precision held) {
  int exponent = 0;
  const double significand = std::ldexp(std::frexp(value, &exponent), -std::ilogb(held.unit));
  const bool exact = !std::isfinite(value) || significand == std::trunc(significand);
  return {value, exact ? 0.0 : held.unit * std::abs(value), held};
}

/// The number clamped to limits; NaN stays NaN, as in the documented system. Number and limits are intervals:
/// where the number surely passes a limit, the bound is that limit's.
inline Real clamp(Real a, double low, double high) {
  if (!(a.error < INFINITY)) return {a.value < low ? low : a.value > high ? high : a.value, INFINITY, a.held};
  const Real l = limit(low, a.held), h = limit(high, a.held);
  const auto clamped = [](double v, double least, double most) {
    return v < least ? least : v > most ? most : v;
  };
  const double v = clamped(a.value, low, high);
  const double above = clamped(a.value + a.error, low + l.error, high + h.error);
  const double below = clamped(a.value - a.error, low - l.error, high - h.error);
  return {v, std::max(above - v, v - below), a.held};
}
inline Real relu(Real a) { return clamp(a, 0.0, INFINITY); }

/// 1 where low <= a <= high, else 0; the bound is 1 where the errors leave open which. A clamp's gradient is
/// this times the gradient of its result.
inline Real inside(Real a, double low, double high) {
  const bool in = a.value >= low && a.value <= high;
  const auto open = [&](double edge) {
    const double error = a.error + limit(edge, a.held).error;
    return error > 0.0 && std::abs(a.value - edge) <= error;
  };
  return {in ? 1.0 : 0.0, open(low) || open(high) ? 1.0 : 0.0, a.held};
}

}  // namespace moeref
