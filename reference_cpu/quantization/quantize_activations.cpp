#include "reference_cpu/quantization/quantize_activations.hpp"

#include <algorithm>
#include <cmath>

#include "reference_cpu/quantization/element_codec.hpp"

namespace moeref {
namespace {

/// A quantity somewhere from `low` to `high`.
struct Interval {
  double low = 0.0, high = 0.0;
};

/// Of a few roundings in float32, and those of this file's own arithmetic.
constexpr double roundings(int count) { return count * 0x1p-24 * (1.0 + 0x1p-20) + 0x1p-50; }

Interval widened(Interval a, double relative) {
  return {a.low - relative * std::abs(a.low), a.high + relative * std::abs(a.high)};
}

constexpr double kLargestCode = 448.0, kLeastGroup = 0x1p-100;

/// The exponent of the scale by either rule of powers of two.
int scale_exponent(ScaleRule rule, double m) {
  if (rule == ScaleRule::power_below) return std::ilogb(m) - 8;
  int exponent = std::ilogb(m) - 9;
  while (std::ldexp(kLargestCode, exponent) < m) ++exponent;
  return exponent;
}

double scale_of(ScaleRule rule, double m) {
  if (rule == ScaleRule::quotient) return static_cast<float>(static_cast<float>(m) / kLargestCode);
  return std::ldexp(1.0, scale_exponent(rule, m));
}

/// The number of e4m3 that a quotient becomes.
double coded(double quotient) { return decode(ElementCodec::e4m3, encode(ElementCodec::e4m3, quotient)); }

Interval joined(Interval a, Interval b) { return {std::min(a.low, b.low), std::max(a.high, b.high)}; }

/// code * scale for a value and a scale somewhere in these intervals: codes do not decrease with the value.
Interval restored(Interval value, Interval scale, double quotient_rounds, double product_rounds) {
  const Interval quotient = widened({value.low / (value.low < 0.0 ? scale.low : scale.high),
                                     value.high / (value.high < 0.0 ? scale.high : scale.low)},
                                    quotient_rounds);
  const double low = coded(quotient.low), high = coded(quotient.high);
  return widened({low * (low < 0.0 ? scale.high : scale.low), high * (high < 0.0 ? scale.low : scale.high)},
                 product_rounds);
}

/// What quantisers make of one group of a row.
class Group {
 public:
  /// `largest`: where the group's largest absolute value lies.
  Group(ScaleRule rule, double m, Interval largest, bool in_float32)
      : rule_(rule), scale_(scale_of(rule, m)), cast_(in_float32 ? 0.0 : roundings(1)) {
    largest = widened(largest, cast_);
    if (rule == ScaleRule::quotient) {
      scales_ = widened({largest.low / kLargestCode, largest.high / kLargestCode}, roundings(2));
      return;
    }
    // Scales are powers of two; that of m / 448 has an open exponent where float32 rounds it to one.
    if (rule == ScaleRule::power_above) largest = widened(largest, roundings(2));
    first_ = scale_exponent(rule, largest.low);
    last_ = scale_exponent(rule, largest.high);
    scales_ = {std::ldexp(1.0, first_), std::ldexp(1.0, last_)};
  }

  /// Of the quotient in float32, as quantisers divide: one that lies past a tie by less is rounded to it.
  double value(double a) const { return coded(static_cast<float>(a) / static_cast<float>(scale_)) * scale_; }

  /// How far from `value` the number of a quantiser can be that has a number within `error` of a.
  double bound(double a, double error, double value) const {
    const Interval given = widened({a - error, a + error}, cast_);
    Interval out{value, value};
    if (rule_ == ScaleRule::quotient) {
      out = joined(out, restored(given, scales_, roundings(2), roundings(1)));
    } else {
      // Neither quotients nor products with a power of two round.
      for (int e = first_; e <= last_ && e <= first_ + 2; ++e) {
        const double scale = std::ldexp(1.0, e);
        out = joined(out, restored(given, {scale, scale}, 0.0, 0.0));
      }
      if (last_ > first_ + 2) out = {-INFINITY, INFINITY};
    }
    return std::min(std::max(out.high - value, value - out.low), distance(given, value));
  }

  /// The powers of the codes whose numbers are within `error` of `value`: 2^-20 is past the roundings of a
  /// scale, and less than the gap between a power of two and the code below it.
  Interval power(double value, double error) const {
    const double low = (std::abs(value) - error) * (1.0 + 0x1p-20), high = std::abs(value) + error;
    return {scales_.low * (low > 0.0 ? e4m3_power(low / scales_.high) : 0.0),
            scales_.high * e4m3_power(high / scales_.low)};
  }

 private:
  /// The same by what every scale guarantees: a code is within half a step of its quotient, 2^-4 of it or
  /// 2^-10 among the subnormal ones, or past saturation 2^-3 of it.
  double distance(Interval given, double value) const {
    const double most = std::max(std::abs(given.low), std::abs(given.high));
    const double share = rule_ == ScaleRule::power_below ? 0x1p-3 : 0x1p-4;
    return std::max(given.high - value, value - given.low) +
           (1.0 + roundings(6)) * std::max(share * most, 0x1p-10 * scales_.high) + roundings(6) * most;
  }

  ScaleRule rule_;
  double scale_, cast_;
  Interval scales_;
  int first_ = 0, last_ = 0;
};

/// Quantises elements [first, end) of one row in place.
void quantize_group(ScaleRule rule, Bounded& rows, CodePowers* powers, std::size_t first, std::size_t end) {
  double m = 0.0;
  Interval largest;
  bool finite = true;
  for (std::size_t i = first; i < end; ++i) {
    const double size = std::abs(rows.value[i]), high = size + rows.error[i];
    finite = finite && high <= kFloat.largest;
    m = std::max(m, size);
    largest = {std::max(largest.low, size - rows.error[i]), std::max(largest.high, high)};
  }
  if (finite && largest.high == 0.0) return;
  if (!finite || largest.low < kLeastGroup) {
    std::fill(rows.value.begin() + static_cast<std::ptrdiff_t>(first),
              rows.value.begin() + static_cast<std::ptrdiff_t>(end), 0.0);
    std::fill(rows.error.begin() + static_cast<std::ptrdiff_t>(first),
              rows.error.begin() + static_cast<std::ptrdiff_t>(end), INFINITY);
    return;
  }
  const Group group(rule, m, largest, rows.dtype != DType::float64);
  for (std::size_t i = first; i < end; ++i) {
    const double value = group.value(rows.value[i]);
    rows.error[i] = group.bound(rows.value[i], rows.error[i], value);
    rows.value[i] = value;
    if (!powers) continue;
    const Interval power = group.power(value, rows.error[i]);
    powers->least[i] = power.low;
    powers->most[i] = power.high;
  }
}

}  // namespace

Bounded quantize_activations(ActivationFormat format, Bounded rows, CodePowers* powers) {
  if (format == ActivationFormat::none) return rows;
  const ActivationFormatFacts& f = facts(format);
  rows.error.resize(rows.count());
  if (powers) *powers = {std::vector<double>(rows.count()), std::vector<double>(rows.count())};
  for (std::int64_t row = 0; row < rows.rows; ++row)
    for (std::int64_t k = 0; k < rows.cols; k += f.group)
      quantize_group(f.scale, rows, powers, static_cast<std::size_t>(row * rows.cols + k),
                     static_cast<std::size_t>(row * rows.cols + std::min(k + f.group, rows.cols)));
  rows.dtype = DType::float32;
  return rows;
}

}  // namespace moeref
