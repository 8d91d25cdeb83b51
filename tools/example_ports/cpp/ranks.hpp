// The processes that make a call together, and how they exchange rows and sums: what a real port does with
// NCCL. For a process that makes its call alone everything here is a copy.
#pragma once

#include <cstdint>
#include <vector>

#include "matrix.hpp"
#include "moeref/port.h"

namespace example {

/// All ranks call the same functions in the same order. Throws std::runtime_error when an exchange fails: a
/// rank that has lost another one has nothing more to do in this call.
class Ranks {
 public:
  /// `exchange` is null for one process alone.
  explicit Ranks(const moeref_exchange* exchange) : exchange_(exchange) {}

  long count() const { return exchange_ ? exchange_->world_size : 1; }
  long rank() const { return exchange_ ? exchange_->rank : 0; }

  /// Those of all ranks, one behind the other; a rank may have none.
  std::vector<float> gather(const std::vector<float>& mine) const;
  std::vector<std::int64_t> gather(const std::vector<std::int64_t>& mine) const;
  Matrix gather(const Matrix& mine) const;

  /// Sums over all ranks, added in the order of the ranks: the same bits on all of them.
  void sum(std::vector<float>& values) const;
  void sum(std::vector<std::int64_t>& values) const;

  /// `rows` are this rank's contributions to the tokens of all ranks, `tokens[r]` of them to those of rank r.
  /// Returns the sum of all contributions to this rank's tokens, added in the order of the ranks.
  Matrix give_back(const Matrix& rows, const std::vector<std::int64_t>& tokens) const;

 private:
  template <typename T>
  std::vector<T> all_gather(const std::vector<T>& mine) const;
  template <typename T>
  void add_up(std::vector<T>& values) const;

  const moeref_exchange* exchange_;
};

}  // namespace example
