#include "reference_cpu/arithmetic/product.hpp"

#include <array>
#include <atomic>
#include <bit>
#include <cmath>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/arithmetic/product_kernel.hpp"

namespace moeref {
namespace {

using kernel::kCols;
using kernel::kRows;

/// A matrix as the product reads it: element (i, j) is data[i * row_stride + j * col_stride].
struct View {
  const double* data;
  std::int64_t row_stride, col_stride;
};

View view(const Bounded& m, const std::vector<double>& data, bool transposed) {
  return transposed ? View{data.data(), 1, m.cols} : View{data.data(), m.cols, 1};
}

std::int64_t panels(std::int64_t extent, std::int64_t width) { return (extent + width - 1) / width; }

/// Copies rows [first, first + kRows) of A, k-major, zero below the last row.
void pack_rows(const View& a, std::int64_t first, std::int64_t rows, std::int64_t depth, double* out) {
  for (std::int64_t k = 0; k < depth; ++k)
    for (std::int64_t r = 0; r < kRows; ++r)
      out[k * kRows + r] = first + r < rows ? a.data[(first + r) * a.row_stride + k * a.col_stride] : 0.0;
}

/// Copies columns [first, first + kCols) of B, or their magnitudes, zero past the last column.
void pack_cols(const View& b, std::int64_t first, std::int64_t cols, std::int64_t depth, bool magnitude,
               double* out) {
  const std::int64_t width = std::min(kCols, cols - first);
  const double* from = b.data + first * b.col_stride;
  for (std::int64_t k = 0; k < depth; ++k)
    for (std::int64_t j = 0; j < kCols; ++j) {
      const double element = j < width ? from[k * b.row_stride + j * b.col_stride] : 0.0;
      out[k * kCols + j] = magnitude ? std::abs(element) : element;
    }
}

kernel::PanelProduct panel_product(VectorWidth width) {
  switch (width) {
    case VectorWidth::avx512:
      return kernel::panel_product_avx512;
    case VectorWidth::avx2:
      return kernel::panel_product_avx2;
    case VectorWidth::sse2:
      break;
  }
  return kernel::panel_product_sse2;
}

VectorWidth widest() {
  for (const VectorWidth width : {VectorWidth::avx512, VectorWidth::avx2})
    if (has(width)) return width;
  return VectorWidth::sse2;
}

std::atomic<VectorWidth>& chosen_width() {
  static std::atomic<VectorWidth> width{widest()};
  return width;
}

/// Up to three products with the same extents: one for the value, one or two for the bound.
struct Term {
  std::vector<double> a;  ///< packed row panels
  View b;
  bool magnitude;
};

std::vector<double> pack_all_rows(const View& a, std::int64_t rows, std::int64_t depth) {
  std::vector<double> out(static_cast<std::size_t>(panels(rows, kRows) * depth * kRows));
  for (std::int64_t p = 0; p < panels(rows, kRows); ++p)
    pack_rows(a, p * kRows, rows, depth, out.data() + p * depth * kRows);
  return out;
}

/// Computes op(A) op(B) and hands every element to write(i, value, bound before storing).
template <typename Write>
void product_of_operands(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b,
                         DType accumulate, Write&& write) {
  const std::int64_t rows = transpose_a ? a.cols : a.rows;
  const std::int64_t depth = transpose_a ? a.rows : a.cols;
  const std::int64_t cols = transpose_b ? b.rows : b.cols;
  const double rounding = gamma(depth, precision(accumulate).unit);
  const double underflows = static_cast<double>(depth) * precision(accumulate).tiny;
  // The error is at least gamma sum |a||b|: up to this one no partial sum can pass the largest number.
  const double most = rounding * precision(accumulate).largest;

  // The bound: sum (gamma |a| + (1 + gamma) e_a) |b|, and sum (1 + gamma) (|a| + e_a) e_b.
  std::vector<double> weighted_a(a.count()), bounded_a;
  for (std::size_t i = 0; i < a.count(); ++i) {
    const double error = a.exact() ? 0.0 : a.error[i];
    weighted_a[i] = rounding * std::abs(a.value[i]) + (1.0 + rounding) * error;
  }
  if (!b.exact()) {
    bounded_a.resize(a.count());
    for (std::size_t i = 0; i < a.count(); ++i)
      bounded_a[i] = (1.0 + rounding) * (std::abs(a.value[i]) + (a.exact() ? 0.0 : a.error[i]));
  }
  std::vector<Term> terms;
  const auto add_term = [&](const std::vector<double>& left, const std::vector<double>& right,
                            bool magnitude) {
    terms.push_back(
        {pack_all_rows(view(a, left, transpose_a), rows, depth), view(b, right, transpose_b), magnitude});
  };
  add_term(a.value, b.value, false);
  add_term(weighted_a, b.value, true);
  if (!b.exact()) add_term(bounded_a, b.error, true);

  const auto panel = panel_product(used_width());
  parallel_for(panels(cols, kCols), [&](std::int64_t col_panel) {
    const std::int64_t first_col = col_panel * kCols;
    std::vector<double> packed_b(static_cast<std::size_t>(depth * kCols) * terms.size());
    for (std::size_t t = 0; t < terms.size(); ++t)
      pack_cols(terms[t].b, first_col, cols, depth, terms[t].magnitude, packed_b.data() + t * depth * kCols);
    for (std::int64_t row_panel = 0; row_panel < panels(rows, kRows); ++row_panel) {
      double out[3][kRows * kCols];
      for (std::size_t t = 0; t < terms.size(); ++t)
        panel(depth, terms[t].a.data() + row_panel * depth * kRows, packed_b.data() + t * depth * kCols,
              out[t]);
      const std::int64_t last_row = std::min(kRows, rows - row_panel * kRows);
      const std::int64_t last_col = std::min(kCols, cols - first_col);
      for (std::int64_t r = 0; r < last_row; ++r)
        for (std::int64_t j = 0; j < last_col; ++j) {
          const std::int64_t at = r * kCols + j;
          const double error =
              out[1][at] + (terms.size() > 2 ? out[2][at] : 0.0) + (out[1][at] > 0.0 ? underflows : 0.0);
          write((row_panel * kRows + r) * cols + first_col + j, out[0][at], error <= most ? error : INFINITY);
        }
    }
  });
}

/// TF32: the exponents of float32, 11 significant bits.
constexpr Precision kTF32{0x1p-11 + 0x1p-53, 0x1p-126, 0x1.ffcp127};

bool is_tf32(double value) {
  const double magnitude = std::abs(value);
  return value == 0.0 || (magnitude >= 0x1p-126 && magnitude <= kTF32.largest &&
                          (std::bit_cast<std::uint64_t>(value) & 0x3ffffffffffu) == 0);
}

/// The operand with the error that its rounding to TF32 adds: none to a number that is known to be one.
Bounded in_tf32(Bounded from) {
  from.error.resize(from.count());
  parallel_for(from.rows, [&](std::int64_t row) {
    for (std::int64_t i = row * from.cols; i < (row + 1) * from.cols; ++i) {
      const Real a = from.at(i);
      if (a.error > 0.0 || !is_tf32(a.value)) from.error[static_cast<std::size_t>(i)] = store(a, kTF32).error;
    }
  });
  return from;
}

/// product_of_operands, whose operands are rounded first where the sums say so.
template <typename Write>
void product(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, const Sums& sums,
             Write&& write) {
  if (sums.tf32_operands)
    product_of_operands(in_tf32(a), transpose_a, in_tf32(b), transpose_b, sums.accumulate, write);
  else
    product_of_operands(a, transpose_a, b, transpose_b, sums.accumulate, write);
}

/// The rounding when a sum in `accumulate` precision is stored.
Real stored_sum(double value, double error, Precision accumulate, Precision stored) {
  return store({value, error, accumulate}, stored);
}

}  // namespace

bool has(VectorWidth width) {
  switch (width) {
    case VectorWidth::avx512:
      return __builtin_cpu_supports("avx512f");
    case VectorWidth::avx2:
      return __builtin_cpu_supports("avx2");
    case VectorWidth::sse2:
      break;
  }
  return true;
}

Sums sums_of(DType dtype, Float32Products products) {
  return {accumulator(dtype), dtype == DType::float32 && products == Float32Products::tf32};
}

void use(VectorWidth width) { chosen_width() = width; }
VectorWidth used_width() { return chosen_width(); }

Bounded multiply(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, const Sums& sums,
                 DType stored, const std::vector<double>& lost) {
  Bounded out(transpose_a ? a.cols : a.rows, transpose_b ? b.rows : b.cols, stored);
  const Precision from = precision(sums.accumulate), to = precision(stored);
  product(a, transpose_a, b, transpose_b, sums, [&](std::int64_t i, double value, double error) {
    if (!lost.empty()) error += lost[static_cast<std::size_t>(i)];
    const Real sum = stored_sum(value, error, from, to);
    out.value[static_cast<std::size_t>(i)] = sum.value;
    out.error[static_cast<std::size_t>(i)] = sum.error;
  });
  return out;
}

void multiply_into(const Bounded& a, bool transpose_a, const Bounded& b, bool transpose_b, const Sums& sums,
                   DType stored, double* value, float* bound) {
  const Precision from = precision(sums.accumulate), to = precision(stored);
  product(a, transpose_a, b, transpose_b, sums, [&](std::int64_t i, double sum_value, double error) {
    const Real sum = stored_sum(sum_value, error, from, to);
    value[i] = sum.value;
    bound[i] = round_up(sum.error);
  });
}

namespace {

/// The gradient of a parameter of type `held`: a sum over rows, which `part` computes.
template <class Part>
Bounded gradient_in(DType held, Bounded whole, RankRows ranks, const Part& part) {
  const bool coarser = precision(held).unit > precision(whole.dtype).unit;
  const DType accumulated = accumulator(whole.dtype);
  bound_rank_parts(whole, accumulated, ranks, part);
  whole = cast(std::move(whole), held);
  if (coarser) bound_rank_parts(whole, accumulated, ranks, part);
  return whole;
}

}  // namespace

Bounded weight_gradient(const Bounded& dy, const Bounded& x, const Sums& sums, DType stored, DType held,
                        RankRows ranks) {
  const auto product = [&](const Bounded& d, const Bounded& in) {
    return multiply(d, true, in, false, sums, stored);
  };
  return gradient_in(held, product(dy, x), ranks, [&](std::int64_t first, std::int64_t last) {
    return product(rows_of(dy, first, last), rows_of(x, first, last));
  });
}

Bounded bias_gradient(const Bounded& dy, DType stored, DType held, RankRows ranks) {
  return gradient_in(held, sum_rows(dy, stored), ranks, [&](std::int64_t first, std::int64_t last) {
    return sum_rows(rows_of(dy, first, last), stored);
  });
}

Bounded linear(const Bounded& x, const Bounded& weight, const Bounded* bias, const Sums& sums, DType stored) {
  Bounded out = multiply(x, false, weight, true, sums, stored);
  if (bias) add_row(out, *bias);
  return out;
}

}  // namespace moeref
