#include "ranks.hpp"

#include <stdexcept>

namespace example {
namespace {

void check(std::int32_t status) {
  if (status != MOEREF_OK) throw std::runtime_error("the exchange with the other ranks failed");
}

}  // namespace

template <typename T>
std::vector<T> Ranks::all_gather(const std::vector<T>& mine) const {
  if (!exchange_) return mine;
  const auto ranks = static_cast<std::size_t>(count());
  const std::size_t bytes = mine.size() * sizeof(T);
  // How much comes from each rank; then to each rank the same.
  std::vector<std::size_t> sizes(ranks);
  check(exchange_->all_gather(exchange_->context, &bytes, sizeof bytes, sizes.data()));
  std::size_t all = 0;
  for (const std::size_t size : sizes) all += size / sizeof(T);
  std::vector<T> out(all);
  std::vector<void*> to;
  std::size_t at = 0;
  for (const std::size_t size : sizes) {
    to.push_back(out.data() + at);
    at += size / sizeof(T);
  }
  const std::vector<const void*> from(ranks, mine.data());
  const std::vector<std::size_t> from_bytes(ranks, bytes);
  check(exchange_->all_to_all(exchange_->context, from.data(), from_bytes.data(), to.data(), sizes.data()));
  return out;
}

template <typename T>
void Ranks::add_up(std::vector<T>& values) const {
  if (!exchange_) return;
  const std::vector<T> all = all_gather(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = all[i];
    for (std::size_t r = 1; r < static_cast<std::size_t>(count()); ++r)
      values[i] += all[r * values.size() + i];
  }
}

std::vector<float> Ranks::gather(const std::vector<float>& mine) const { return all_gather(mine); }
std::vector<std::int64_t> Ranks::gather(const std::vector<std::int64_t>& mine) const {
  return all_gather(mine);
}
Matrix Ranks::gather(const Matrix& mine) const {
  Matrix out;
  out.v = all_gather(mine.v);
  out.cols = mine.cols;
  out.rows = static_cast<long>(out.v.size()) / mine.cols;
  return out;
}

void Ranks::sum(std::vector<float>& values) const { add_up(values); }
void Ranks::sum(std::vector<std::int64_t>& values) const { add_up(values); }

Matrix Ranks::give_back(const Matrix& rows, const std::vector<std::int64_t>& tokens) const {
  if (!exchange_) return rows;
  const auto ranks = static_cast<std::size_t>(count());
  const long own = tokens[static_cast<std::size_t>(rank())];
  const std::size_t row_bytes = static_cast<std::size_t>(rows.cols) * sizeof(float);
  std::vector<Matrix> parts(ranks, Matrix(own, rows.cols));
  std::vector<const void*> from;
  std::vector<void*> to;
  std::vector<std::size_t> from_bytes, to_bytes;
  long first = 0;
  for (std::size_t r = 0; r < ranks; ++r) {
    from.push_back(rows.row(first));
    from_bytes.push_back(static_cast<std::size_t>(tokens[r]) * row_bytes);
    to.push_back(parts[r].v.data());
    to_bytes.push_back(static_cast<std::size_t>(own) * row_bytes);
    first += tokens[r];
  }
  check(
      exchange_->all_to_all(exchange_->context, from.data(), from_bytes.data(), to.data(), to_bytes.data()));
  for (std::size_t r = 1; r < ranks; ++r) add(parts[0], parts[r]);
  return parts[0];
}

}  // namespace example
