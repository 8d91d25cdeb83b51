#include "reference_cpu/quantization/truncated_sums.hpp"

#include <algorithm>
#include <cmath>

namespace moeref {
namespace {

/// Past the roundings of scales and of this file's own arithmetic.
constexpr double kSlack = 1.0 + 0x1p-20;

/// The sums of one row and all columns over the columns of the contraction since the last promotion.
class PartialSums {
 public:
  explicit PartialSums(std::size_t columns)
      : value_(columns), moved_(columns), lost_(columns), peak_(columns), losing_(columns) {}

  void clear() {
    for (std::vector<double>* all : {&value_, &moved_, &lost_}) std::fill(all->begin(), all->end(), 0.0);
  }

  /// How far the accumulator's magnitude can go.
  double reach(std::size_t n) const { return std::abs(value_[n]) + moved_[n] + lost_[n]; }
  double lost(std::size_t n) const { return lost_[n]; }

  /// Before an instruction: the sum so far is one of its addends.
  void start() {
    for (std::size_t n = 0; n < value_.size(); ++n) {
      peak_[n] = reach(n);
      losing_[n] = peak_[n] > 0.0 ? 1.0 : 0.0;
    }
  }
  /// Products of a row's number, known within `error`, with one of each column's weights: the sum, and the
  /// largest power of two.
  void add(double number, double error, double most, const double* weights, const double* powers) {
    for (std::size_t n = 0; n < value_.size(); ++n) {
      value_[n] += number * weights[n];
      moved_[n] += error * std::abs(weights[n]);
      peak_[n] = std::max(peak_[n], most * powers[n]);
    }
  }
  /// The same products once more, when the largest power is known: those that may have bits below the last
  /// one that is kept. A product has none below 2^-6 of its own power.
  void count_losing(double least, const double* powers, double below) {
    for (std::size_t n = 0; n < value_.size(); ++n)
      losing_[n] += powers[n] > 0.0 && least * powers[n] < below * peak_[n] ? 1.0 : 0.0;
  }
  /// After it: each of these loses less than the last bit, and the result is truncated to as many bits.
  void end(double last_bit) {
    for (std::size_t n = 0; n < value_.size(); ++n) {
      lost_[n] += last_bit * kSlack * peak_[n] * losing_[n];
      lost_[n] += last_bit * kSlack * reach(n);
    }
  }

 private:
  std::vector<double> value_, moved_, lost_, peak_, losing_;
};

}  // namespace

std::vector<double> lost_by_truncation(const AccumulatorFacts& accumulator, const Bounded& rows,
                                       const CodePowers& powers, const Bounded& weights,
                                       const std::vector<double>& of_weights) {
  if (accumulator.promotion == 0) return {};
  const std::int64_t depth = rows.cols, columns = weights.cols;
  const double last_bit = std::ldexp(1.0, -accumulator.fraction_bits);
  // Powers of two below 2^6 last bits are at most 2^5 of them: whatever lies between decides the same.
  const double below = last_bit * 0x1.8p5;
  const double roundings = 1.0 + gamma(depth, kFloat.unit);  // of scales and sums in float32
  std::vector<double> out(static_cast<std::size_t>(rows.rows * columns));
  PartialSums sums(static_cast<std::size_t>(columns));
  for (std::int64_t row = 0; row < rows.rows; ++row)
    for (std::int64_t group = 0; group < depth; group += accumulator.promotion) {
      const std::int64_t group_end = std::min(group + accumulator.promotion, depth);
      sums.clear();
      for (std::int64_t first = group; first < group_end; first += accumulator.instruction) {
        const std::int64_t end = std::min(first + accumulator.instruction, group_end);
        sums.start();
        for (std::int64_t k = first; k < end; ++k) {
          const auto at = static_cast<std::size_t>(row * depth + k);
          sums.add(rows.value[at], rows.error[at], powers.most[at], weights.value.data() + k * columns,
                   of_weights.data() + k * columns);
        }
        for (std::int64_t k = first; k < end; ++k)
          if (const auto at = static_cast<std::size_t>(row * depth + k); powers.most[at] > 0.0)
            sums.count_losing(powers.least[at], of_weights.data() + k * columns, below);
        sums.end(last_bit);
      }
      for (std::int64_t n = 0; n < columns; ++n) {
        const double lost = roundings * sums.lost(static_cast<std::size_t>(n));
        // Of rows without a bound a sum may be infinity times 0.
        out[static_cast<std::size_t>(row * columns + n)] += lost < INFINITY ? lost : INFINITY;
      }
    }
  return out;
}

}  // namespace moeref
