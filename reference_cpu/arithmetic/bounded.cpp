#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

namespace {

/// Gives exact numbers of type `from` the error that storing them in the matrix's own type makes.
void round_exact(Bounded& m, DType from) {
  const Precision held = precision(from), to = precision(m.dtype);
  if (to.unit <= held.unit && to.largest >= held.largest) return;
  m.error.resize(m.count());
  for (std::size_t i = 0; i < m.count(); ++i) m.error[i] = store(known(m.value[i], held), to).error;
}

}  // namespace

void load_into(Bounded& out, const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols,
               DType compute) {
  out.rows = rows;
  out.cols = cols;
  out.dtype = compute;
  out.value.resize(out.count());
  out.error.clear();
  tensor.read(first, out.value);
  round_exact(out, tensor.dtype());
}

Bounded load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols, DType compute) {
  Bounded out;
  load_into(out, tensor, first, rows, cols, compute);
  return out;
}

Bounded load(const Tensor& tensor, std::int64_t first, std::int64_t rows, std::int64_t cols) {
  return load(tensor, first, rows, cols, tensor.dtype());
}

Bounded load(const Tensor& tensor, std::int64_t cols) { return load(tensor, cols, tensor.dtype()); }

Bounded load(const Tensor& tensor, std::int64_t cols, DType compute) {
  return load(tensor, 0, cols == 0 ? 0 : tensor.size() / cols, cols, compute);
}

Bounded cast(Bounded from, DType to) {
  if (from.exact()) {
    std::swap(from.dtype, to);
    round_exact(from, to);
    return from;
  }
  const Precision held = precision(from.dtype), next = precision(to);
  for (std::size_t i = 0; i < from.count(); ++i)
    from.error[i] = store({from.value[i], from.error[i], held}, next).error;
  from.dtype = to;
  return from;
}

Bounded rounded(Bounded from, DType to) {
  const Precision held = precision(from.dtype), next = precision(to);
  from.dtype = to;
  if (next.unit <= held.unit && next.largest >= held.largest) return from;
  const auto put_error = [&from](std::size_t i, double error) {
    if (error != 0.0 && from.exact()) from.error.resize(from.count());
    if (!from.exact()) from.error[i] = error;
  };
  for (std::size_t i = 0; i < from.count(); ++i) {
    const double value = from.value[i], error = from.exact() ? 0.0 : from.error[i];
    const double at_once = round_to(to, value), by_float = round_to(to, round_to(DType::float32, value));
    if (error != 0.0 || (std::isfinite(value) && !std::isfinite(at_once))) {
      put_error(i, store({value, error, held}, next).error);
      continue;
    }
    from.value[i] = at_once;
    put_error(i, by_float == at_once ? 0.0 : std::abs(by_float - at_once));
  }
  return from;
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
    if (!from.exact())
      out.error.insert(out.error.end(), from.error.begin() + begin, from.error.begin() + end);
  }
  return out;
}

Bounded rows_of(const Bounded& from, std::int64_t first, std::int64_t last) {
  Bounded out;
  out.rows = last - first;
  out.cols = from.cols;
  out.dtype = from.dtype;
  out.value.assign(from.value.begin() + first * from.cols, from.value.begin() + last * from.cols);
  if (!from.exact())
    out.error.assign(from.error.begin() + first * from.cols, from.error.begin() + last * from.cols);
  return out;
}

Bounded add(const Bounded& a, const Bounded& b) {
  Bounded out(a.rows, a.cols, a.dtype);
  for (std::int64_t i = 0; i < a.rows * a.cols; ++i) out.set(i, a.at(i) + b.at(i));
  return out;
}

Bounded add_in_any_order(const std::vector<Bounded>& terms, DType stored,
                         const std::vector<std::int64_t>& others) {
  Bounded out(terms[0].rows, terms[0].cols, stored);
  for (std::int64_t r = 0; r < out.rows; ++r)
    for (std::int64_t c = 0; c < out.cols; ++c) {
      Sum sum(precision(stored));
      for (const Bounded& term : terms) sum += term.at(r, c);
      out.set(r, c, sum.total(others.empty() ? 0 : others[static_cast<std::size_t>(r)]));
    }
  return out;
}

PartSum::PartSum(Bounded first) : sum_(std::move(first)) {
  if (sum_.exact()) sum_.error.resize(sum_.count());
  for (std::size_t i = 0; i < sum_.count(); ++i)
    magnitude_.push_back(std::abs(sum_.value[i]) + sum_.error[i]);
}

void PartSum::add(std::int64_t row, const Bounded& part, std::int64_t part_row) {
  for (std::int64_t c = 0; c < sum_.cols; ++c) {
    const auto to = static_cast<std::size_t>(row * sum_.cols + c);
    const Real a = part.at(part_row, c);
    sum_.value[to] += a.value;
    sum_.error[to] += a.error;
    magnitude_[to] += std::abs(a.value) + a.error;
  }
}

Bounded PartSum::total() && {
  const double largest = precision(sum_.dtype).largest;
  for (std::size_t i = 0; i < magnitude_.size(); ++i)
    if (!(magnitude_[i] <= largest)) sum_.error[i] = INFINITY;
  return std::move(sum_);
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

Real Sum::total(std::int64_t others) const {
  const double additions = terms_ > 0 ? gamma(terms_ - 1 + others, accumulate_.unit) : 0.0;
  const bool overflows = !(magnitude_ * (1.0 + additions) <= accumulate_.largest);
  return {value_, overflows ? INFINITY : error_ + additions * magnitude_, accumulate_};
}

BoundedTensor to_result(Bounded matrix, Shape shape) {
  BoundedTensor out{matrix.dtype, std::move(shape), std::move(matrix.value), {}};
  out.bound.resize(out.value.size());
  for (std::size_t i = 0; i < matrix.error.size(); ++i) out.bound[i] = round_up(matrix.error[i]);
  return out;
}

BoundedTensor exact_result(const Tensor& tensor) {
  return {tensor.dtype(), tensor.shape(), tensor.doubles(),
          std::vector<float>(static_cast<std::size_t>(tensor.size()))};
}

}  // namespace moeref
