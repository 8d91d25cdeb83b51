// Products of quantised operands as kernels of models make them, in float: by a port that rounds code times
// scale and multiplies numbers, by a fused one that adds up codes and scales each group's sum, and by one
// that does the same with the sums of Hopper's FP8 tensor cores, bit by bit.
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

/// A number as tensor cores align it: an integer times 2^(exponent - bits), where subnormal codes have the
/// exponent of normal ones.
struct Aligned {
  std::int64_t significand = 0;
  int exponent = kOfZero;
  static constexpr int kOfZero = -100000;
};
Aligned aligned(float number, int bits, int least) {
  if (number == 0.0f) return {};
  const int exponent = std::max(std::ilogb(number), least);
  return {static_cast<std::int64_t>(std::ldexp(number, bits - exponent)), exponent};
}
Aligned aligned_code(float code) { return aligned(code, 3, -6); }
Aligned e4m3(int code) {
  const int exponent = code >> 3 & 15, fraction = code & 7,
            significand = exponent == 0 ? fraction : 8 + fraction;
  if (significand == 0) return {};
  return {code & 128 ? -significand : significand, std::max(exponent, 1) - 7};
}

constexpr int kKeptBits = 13;

/// In units of the last bit that is kept: the rest is cut off toward zero or, as two's complement numbers
/// are, toward minus infinity.
std::int64_t kept(Aligned addend, int bits, int largest, bool toward_zero) {
  const int left = kKeptBits - bits + addend.exponent - largest, right = std::min(-left, 62);
  if (left >= 0) return addend.significand << left;
  return toward_zero && addend.significand < 0 ? -(-addend.significand >> right)
                                               : addend.significand >> right;
}

/// One wgmma of K = 32 for one element: products and sum shifted to the largest exponent and cut off, added
/// exactly, the result cut off to as many bits.
float instruction(float sum, const Aligned* a, const Aligned* b, std::int64_t count, bool toward_zero) {
  const Aligned so_far = aligned(sum, kKeptBits, -126);
  int largest = so_far.exponent;
  for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, a[i].exponent + b[i].exponent);
  if (largest <= Aligned::kOfZero / 2) return 0.0f;
  std::int64_t total = so_far.significand == 0 ? 0 : kept(so_far, kKeptBits, largest, toward_zero);
  for (std::int64_t i = 0; i < count; ++i)
    if (const std::int64_t product = a[i].significand * b[i].significand; product != 0)
      total += kept({product, a[i].exponent + b[i].exponent}, 6, largest, toward_zero);
  std::int64_t dropped = 1;
  while (std::abs(total / dropped) >> (kKeptBits + 1) != 0) dropped *= 2;
  return std::ldexp(static_cast<float>(total / dropped * dropped), largest - kKeptBits);
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

Matrix Workspace::tensor_core_product(const Matrix& rows, const CodedWeights& weights, DType t) const {
  const std::int64_t n_count = weights.codes.extent(1), k_count = weights.codes.extent(2),
                     blocks_n = weights.scales.extent(1), blocks_k = weights.scales.extent(2);
  std::vector<Aligned> columns;
  for (std::int64_t i = 0; i < n_count * k_count; ++i)
    columns.push_back(e4m3(static_cast<int>(weights.codes[weights.expert * n_count * k_count + i])));
  Matrix out = make(rows.rows, n_count, t);
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    const Groups groups = quantised(facts(activations), rows, row, o.fused);
    std::vector<Aligned> codes;
    for (const float code : groups.codes) codes.push_back(aligned_code(code));
    for (std::int64_t n = 0; n < n_count; ++n) {
      float total = 0.0f;
      for (std::int64_t group = 0; group < k_count; group += 128) {
        float partial = 0.0f;
        for (std::int64_t k = group; k < std::min(group + 128, k_count); k += 32)
          partial = instruction(partial, codes.data() + k, columns.data() + n * k_count + k,
                                std::min(k + 32, k_count) - k, o.fused);
        const float of_rows = groups.scales[static_cast<std::size_t>(group / 128)],
                    of_weights = static_cast<float>(
                        weights.scales[(weights.expert * blocks_n + n / 128) * blocks_k + group / 128]);
        total += o.fused ? partial * (of_rows * of_weights) : partial * of_rows * of_weights;
      }
      out.set(row, n, {total});
    }
  }
  return out;
}

}  // namespace moeref::eager
