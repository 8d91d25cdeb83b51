// A matrix of numbers with running error bounds: what the stages of the reference pass on.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "moeref/evaluation.hpp"
#include "moeref/tensor.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

/// Row-major [rows, cols]; values and bounds apart, so that products run over plain arrays of doubles.
struct Bounded {
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::float64;  ///< in which the documented system holds it
  std::vector<double> value;
  std::vector<double> error;  ///< empty = exact

  Bounded() = default;
  Bounded(std::int64_t rows, std::int64_t cols, DType dtype)
      : rows(rows), cols(cols), dtype(dtype), value(count()), error(count()) {}

  std::size_t count() const { return static_cast<std::size_t>(rows * cols); }
  bool exact() const { return error.empty(); }

  Real at(std::int64_t i) const {
    const auto n = static_cast<std::size_t>(i);
    return {value[n], error.empty() ? 0.0 : error[n], precision(dtype)};
  }
  Real at(std::int64_t row, std::int64_t col) const { return at(row * cols + col); }

  /// Stores in the matrix's dtype: rounds where that is coarser than the number's own.
  void set(std::int64_t i, Real a) {
    const Real stored = store(a, precision(dtype));
    value[static_cast<std::size_t>(i)] = stored.value;
    error[static_cast<std::size_t>(i)] = stored.error;
  }
  void set(std::int64_t row, std::int64_t col, Real a) { set(row * cols + col, a); }
};

/// `rows` x `cols` elements of the tensor from element `first` on. They are exact, unless the compute type is
/// coarser than the tensor's own (fp32 parameters under bf16 activations): then with the error of that cast.
Bounded load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols);
Bounded load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols, DType compute);

/// The same, into a matrix that exists already and whose memory is used again.
void load_into(Bounded& out, const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols,
               DType compute);

/// The whole tensor as [size / cols, cols].
Bounded load(const Tensor& tensor, std::int64_t cols);
Bounded load(const Tensor& tensor, std::int64_t cols, DType compute);

/// The same numbers held in another type, with the error of that cast where it rounds or overflows.
Bounded cast(Bounded from, DType to);

/// The numbers that rounding to nearest even makes of them: exact ones stay exact, but for overflow. float64
/// becomes a 16-bit type at once, or by way of float32, which differ next to a tie.
Bounded rounded(Bounded from, DType to);

/// The rows with these numbers, in that order.
Bounded gather_rows(const Bounded& from, const std::vector<std::int64_t>& rows);

/// a + b elementwise, stored in a's dtype.
Bounded add(const Bounded& a, const Bounded& b);

/// The sum of gradients that meet in one tensor: the documented system adds them one by one, in the order in
/// which they arrive, and rounds each sum to the tensor's type. `others` is that of Sum::total, one number
/// per row; empty = none.
Bounded add_in_any_order(const std::vector<Bounded>& terms, DType stored,
                         const std::vector<std::int64_t>& others = {});

/// Adds values and bounds without rounding: for parts of a sum whose bounds hold for the whole sum already,
/// but for its overflow in any order of the parts.
class PartSum {
 public:
  explicit PartSum(Bounded first);
  void add(std::int64_t row, const Bounded& part, std::int64_t part_row);
  Bounded total() &&;

 private:
  Bounded sum_;
  std::vector<double> magnitude_;
};

/// Every row plus the same [1, cols] row, stored in a's dtype.
void add_row(Bounded& a, const Bounded& row);

/// Rows [first, last).
Bounded rows_of(const Bounded& from, std::int64_t first, std::int64_t last);

/// The sum over rows, [1, cols], accumulated in fp32 or finer and stored in `stored`.
Bounded sum_rows(const Bounded& a, DType stored);

/// The first token of each rank, and the number of tokens: [ranks + 1]. Empty for one rank.
using RankRows = std::span<const std::int64_t>;

/// For the gradient of a parameter that all ranks have, which is a sum over all tokens: each rank rounds the
/// sum G_r over its own tokens to the gradient's type, and the G_r are added in any order, rounded likewise.
/// This adds to the bound what these additions may do: gamma_{R - 1} sum_r |G_r|, where the last addition is
/// the gradient's own rounding. `part(first, last)` is the sum over those rows. It adds nothing where the
/// type is as fine as `accumulated`, in which the sum over all tokens is bounded already.
template <class Part>
void bound_rank_parts(Bounded& gradient, DType accumulated, RankRows ranks, const Part& part);

/// A sum of numbers in one precision, in any order. Its bound is gamma_n times the sum of their magnitudes,
/// plus the sum of their errors (Higham 4.2).
class Sum {
 public:
  explicit Sum(Precision accumulate) : accumulate_(accumulate) {}
  void operator+=(Real a) {
    // A term of a finer precision is rounded when it is added, or the sum at its end: the latter is no more.
    if (a.held.unit < accumulate_.unit) a = store(a, accumulate_);
    value_ += a.value;
    magnitude_ += std::abs(a.value) + a.error;
    error_ += a.error;
    if (a.value != 0.0 || a.error != 0.0) ++terms_;
  }
  /// Adds the terms of another sum.
  void operator+=(const Sum& other) {
    value_ += other.value_;
    magnitude_ += other.magnitude_;
    error_ += other.error_;
    terms_ += other.terms_;
  }
  /// `others` is how many further terms an honest implementation may add in between, in any order. The caller
  /// counts their values and errors; what their additions do to the terms of this sum is bounded here.
  Real total(std::int64_t others = 0) const;

 private:
  Precision accumulate_;
  double value_ = 0.0, magnitude_ = 0.0, error_ = 0.0;
  std::int64_t terms_ = 0;
};

/// gamma_n = n u / (1 - n u).
double gamma(std::int64_t n, double unit);

/// The type in which sums and products of a dtype are accumulated: fp64 for float64, else fp32.
inline DType accumulator(DType dtype) { return dtype == DType::float64 ? DType::float64 : DType::float32; }

template <class Part>
void bound_rank_parts(Bounded& gradient, DType accumulated, RankRows ranks, const Part& part) {
  const double unit = precision(gradient.dtype).unit;
  if (ranks.size() <= 2 || unit <= precision(accumulated).unit) return;
  const double each = gamma(static_cast<std::int64_t>(ranks.size()) - 2, unit) * (1.0 + unit);
  for (std::size_t r = 0; r + 1 < ranks.size(); ++r) {
    const Bounded own = part(ranks[r], ranks[r + 1]);
    for (std::size_t i = 0; i < gradient.count(); ++i)
      gradient.error[i] += each * (std::abs(own.value[i]) + own.error[i]);
  }
}

/// The smallest float that is not below a bound >= 0; infinity for a bound that is NaN.
inline float round_up(double bound) {
  const auto nearest = static_cast<float>(bound);
  if (std::isnan(nearest)) return INFINITY;
  return nearest < bound ? std::bit_cast<float>(std::bit_cast<std::uint32_t>(nearest) + 1) : nearest;
}

BoundedTensor to_result(Bounded matrix, Shape shape);
BoundedTensor exact_result(const Tensor& tensor);

}  // namespace moeref
