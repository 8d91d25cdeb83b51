// Numbers and matrices as an eager framework computes with them: every operation takes its operands' common
// type, computes in float (double for float64) and rounds its result to that type. Nothing here is shared
// with the reference's arithmetic.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "moeref/tensor.hpp"

namespace moeref::eager {

/// In which order sums are added up.
enum class Order : std::uint8_t { forward, backward, pairwise };

/// Rounds to nearest even with `digits` significand bits: adding and subtracting 1.5 * 2^52 units of the last
/// place does it.
inline double round_bits(double x, int digits, int least_exponent, double largest) {
  if (x == 0.0 || !std::isfinite(x)) return x;
  const int biased = static_cast<int>(std::bit_cast<std::uint64_t>(x) >> 52 & 0x7ff);
  const int exponent = std::max(biased - 1023, least_exponent);
  const double magic =
      std::bit_cast<double>(static_cast<std::uint64_t>(exponent - digits + 1 + 52 + 1023) << 52) * 1.5;
  const double rounded = (x + magic) - magic;
  return std::abs(rounded) > largest ? std::copysign(std::numeric_limits<double>::infinity(), x) : rounded;
}

inline double round_as(DType t, double x) {
  switch (t) {
    case DType::float64:
      return x;
    case DType::bfloat16:
      return round_bits(x, 8, -126, 0x1.fep127);
    case DType::float16:
      return round_bits(x, 11, -14, 65504.0);
    default:
      return static_cast<double>(static_cast<float>(x));
  }
}

/// PyTorch's promotion of two floating types.
inline DType common(DType a, DType b) {
  if (a == b) return a;
  if (a == DType::float64 || b == DType::float64) return DType::float64;
  return DType::float32;
}

/// The type in which sums and products of a type are accumulated.
inline DType wide(DType t) { return t == DType::float64 ? t : DType::float32; }

struct Num {
  double v = 0.0;
  DType t = DType::float32;
};
/// A row of a matrix, or the terms of a sum.
using Row = std::vector<Num>;

inline Num cast(Num a, DType t) { return {round_as(t, a.v), t}; }

/// f in float or double, its result rounded to the operands' common type.
template <typename F>
Num apply(Num a, F&& f) {
  if (a.t == DType::float64) return {f(a.v), a.t};
  return {round_as(a.t, f(static_cast<float>(a.v))), a.t};
}
template <typename F>
Num apply(Num a, Num b, F&& f) {
  const DType t = common(a.t, b.t);
  if (t == DType::float64) return {f(a.v, b.v), t};
  return {round_as(t, f(static_cast<float>(a.v), static_cast<float>(b.v))), t};
}

inline Num operator+(Num a, Num b) {
  return apply(a, b, [](auto x, auto y) { return x + y; });
}
inline Num operator-(Num a, Num b) {
  return apply(a, b, [](auto x, auto y) { return x - y; });
}
inline Num operator*(Num a, Num b) {
  return apply(a, b, [](auto x, auto y) { return x * y; });
}
inline Num operator/(Num a, Num b) {
  return apply(a, b, [](auto x, auto y) { return x / y; });
}
inline Num operator-(Num a) { return {-a.v, a.t}; }

// A scalar takes the operation's own type: float, or double for float64.
inline Num operator+(Num a, double c) {
  return apply(a, [&](auto x) { return x + static_cast<decltype(x)>(c); });
}
inline Num operator+(double c, Num a) { return a + c; }
inline Num operator-(double c, Num a) {
  return apply(a, [&](auto x) { return static_cast<decltype(x)>(c) - x; });
}
inline Num operator*(Num a, double c) {
  return apply(a, [&](auto x) { return x * static_cast<decltype(x)>(c); });
}
inline Num operator*(double c, Num a) { return a * c; }
inline Num operator/(Num a, double c) {
  return apply(a, [&](auto x) { return x / static_cast<decltype(x)>(c); });
}

// Elementwise functions, one kernel each.
inline Num sigmoid(Num a) {
  return apply(a, [](auto x) { return 1 / (1 + std::exp(-x)); });
}
inline Num silu(Num a) {
  return apply(a, [](auto x) { return x / (1 + std::exp(-x)); });
}
inline Num tanh(Num a) {
  return apply(a, [](auto x) { return std::tanh(x); });
}
inline Num erf(Num a) {
  return apply(a, [](auto x) { return std::erf(x); });
}
inline Num sqrt(Num a) {
  return apply(a, [](auto x) { return std::sqrt(x); });
}
inline Num relu(Num a) { return a.v < 0.0 ? Num{0.0, a.t} : a; }
inline Num square(Num a) {
  return apply(a, [](auto x) { return x * x; });
}
inline Num softplus(Num a) {
  return apply(a, [](auto x) { return x > 20 ? x : std::log1p(std::exp(x)); });
}

/// Limits are converted to the tensor's type, as its clamp kernel does.
inline Num clamp(Num a, double low, double high) {
  const double least = round_as(a.t, low), most = round_as(a.t, high);
  return {a.v < least ? least : a.v > most ? most : a.v, a.t};
}
/// What a clamp lets through of a gradient.
inline Num clamp_gradient(Num d, Num a, double low, double high) {
  return a.v >= round_as(a.t, low) && a.v <= round_as(a.t, high) ? d : Num{0.0, d.t};
}

/// Terms of a sum in float or double, in the given order.
template <typename T>
T add_up(const T* terms, std::size_t n, Order order) {
  if (order == Order::pairwise && n > 2)
    return add_up(terms, n / 2, order) + add_up(terms + n / 2, n - n / 2, order);
  T sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += terms[order == Order::backward ? n - 1 - i : i];
  return sum;
}

/// Accumulated in float or double, rounded once to `t`.
inline Num sum(const std::vector<Num>& terms, DType t, Order order) {
  if (t == DType::float64) {
    std::vector<double> values;
    for (const Num a : terms) values.push_back(a.v);
    return {add_up(values.data(), values.size(), order), t};
  }
  std::vector<float> values;
  for (const Num a : terms) values.push_back(static_cast<float>(a.v));
  return {round_as(t, add_up(values.data(), values.size(), order)), t};
}

/// Gradients that meet in one tensor: added one by one, each sum rounded to the tensor's type.
inline Num accumulate(const std::vector<Num>& terms, DType t, Order order) {
  Num out{0.0, t};
  for (std::size_t i = 0; i < terms.size(); ++i)
    out = out + cast(terms[order == Order::backward ? terms.size() - 1 - i : i], t);
  return out;
}

/// A stored tensor of two dimensions. `read` is the type in which its elements enter operations: its own
/// where every operation rounds to it, float where a fused kernel keeps everything in float until it stores.
struct Matrix {
  std::int64_t rows = 0, cols = 0;
  DType stored = DType::float32, read = DType::float32;
  std::vector<double> v;

  Matrix() = default;
  Matrix(std::int64_t rows, std::int64_t cols, DType t, bool fused)
      : rows(rows),
        cols(cols),
        stored(t),
        read(fused ? wide(t) : t),
        v(static_cast<std::size_t>(rows * cols)) {}

  Num at(std::int64_t r, std::int64_t c) const { return {v[static_cast<std::size_t>(r * cols + c)], read}; }
  void set(std::int64_t r, std::int64_t c, Num a) {
    v[static_cast<std::size_t>(r * cols + c)] = round_as(stored, a.v);
  }
  std::vector<Num> row(std::int64_t r) const {
    std::vector<Num> out;
    for (std::int64_t c = 0; c < cols; ++c) out.push_back(at(r, c));
    return out;
  }
};

}  // namespace moeref::eager
