#include "moeref/bounded.hpp"

namespace moeref {

void load_into(Bounded& out, const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols,
               DType compute) {
  out.rows = rows;
  out.cols = cols;
  out.dtype = compute;
  out.value.resize(out.count());
  out.error.clear();
  tensor.read(first, out.value);
  if (unit_roundoff(compute) <= unit_roundoff(tensor.dtype())) return;
  const Precision p = precision(compute);
  out.error.resize(out.count());
  for (std::size_t i = 0; i < out.count(); ++i) out.error[i] = p.unit * std::abs(out.value[i]) + p.tiny;
}

Bounded load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols, DType compute) {
  Bounded out;
  load_into(out, tensor, first, rows, cols, compute);
  return out;
}

Bounded load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols) {
  return load(tensor, first, rows, cols, tensor.dtype());
}

Bounded load(const Tensor& tensor, std::int64_t cols) {
  return load(tensor, 0, cols == 0 ? 0 : tensor.size() / cols, cols);
}

Bounded gather_rows(const Bounded& from, const std::vector<std::int64_t>& rows) {
  Bounded out;
  out.rows = static_cast<std::int64_t>(rows.size());
  out.cols = from.cols;
  out.dtype = from.dtype;
  out.value.reserve(out.count());
  if (!from.exact()) out.error.reserve(out.count());
  for (const std::int64_t row : rows) {
    const auto begin = row * from.cols, end = begin + from.cols;
    out.value.insert(out.value.end(), from.value.begin() + begin, from.value.begin() + end);
    if (!from.exact()) out.error.insert(out.error.end(), from.error.begin() + begin, from.error.begin() + end);
  }
  return out;
}

Bounded rows_of(const Bounded& from, std::int64_t first, std::int64_t last) {
  Bounded out;
  out.rows = last - first;
  out.cols = from.cols;
  out.dtype = from.dtype;
  out.value.assign(from.value.begin() + first * from.cols, from.value.begin() + last * from.cols);
  if (!from.exact()) out.error.assign(from.error.begin() + first * from.cols, from.error.begin() + last * from.cols);
  return out;
}

Bounded add(const Bounded& a, const Bounded& b) {
  Bounded out(a.rows, a.cols, a.dtype);
  for (std::int64_t i = 0; i < a.rows * a.cols; ++i) out.set(i, a.at(i) + b.at(i));
  return out;
}

void add_row(Bounded& a, const Bounded& row) {
  for (std::int64_t r = 0; r < a.rows; ++r)
    for (std::int64_t c = 0; c < a.cols; ++c) a.set(r, c, a.at(r, c) + row.at(c));
}

Bounded sum_rows(const Bounded& a, DType stored) {
  Bounded out(1, a.cols, stored);
  for (std::int64_t c = 0; c < a.cols; ++c) {
    Sum sum(precision(accumulator(a.dtype)));
    for (std::int64_t r = 0; r < a.rows; ++r) sum += a.at(r, c);
    out.set(c, sum.total());
  }
  return out;
}

double gamma(std::int64_t n, double unit) {
  const double nu = static_cast<double>(n) * unit;
  return nu < 1.0 ? nu / (1.0 - nu) : INFINITY;
}

Real Sum::total() const {
  const double rounding = terms_ > 1 ? gamma(terms_ - 1, accumulate_.unit) * magnitude_ : 0.0;
  return {value_, error_ + rounding, accumulate_};
}

float round_up(double bound) {
  const auto nearest = static_cast<float>(bound);
  return nearest < bound ? std::nextafter(nearest, INFINITY) : nearest;
}

BoundedTensor to_result(Bounded matrix, Shape shape) {
  BoundedTensor out{matrix.dtype, std::move(shape), std::move(matrix.value), {}};
  out.bound.resize(out.value.size());
  for (std::size_t i = 0; i < matrix.error.size(); ++i) out.bound[i] = round_up(matrix.error[i]);
  return out;
}

BoundedTensor exact_result(const Tensor& tensor) {
  return {tensor.dtype(), tensor.shape(), tensor.doubles(), std::vector<float>(static_cast<std::size_t>(tensor.size()))};
}

}  // namespace moeref
