// A stream of decisions, made from 64 random bits.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref {

template <std::size_t Count, typename Row, std::size_t N>
constexpr std::array<Row, Count> first_rows(const std::array<Row, N>& table) {
  std::array<Row, Count> out{};
  std::copy_n(table.begin(), Count, out.begin());
  return out;
}

class Choices {
 public:
  explicit Choices(std::uint64_t bits, std::string_view stream = "descriptor") : generator_(bits, stream) {}

  std::int64_t between(std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(
                       generator_.integer(next_++, static_cast<std::uint64_t>(most - least + 1)));
  }
  bool chance(int percent) { return between(0, 99) < percent; }
  std::uint64_t bits() { return generator_.bits(next_++); }
  template <typename T>
  T of(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<std::int64_t>(values.size()) - 1)];
  }
  /// An element of a container with operator[] and size().
  template <typename Container>
  const auto& one_of(const Container& values) {
    return values[static_cast<std::size_t>(between(0, static_cast<std::int64_t>(values.size()) - 1))];
  }
  /// The kind of a row of the table; the first rows, `twice` of them, come twice as often as the others.
  template <typename Row, std::size_t N>
  auto kind_of(const std::array<Row, N>& table, std::int64_t twice) {
    const std::int64_t drawn = between(0, static_cast<std::int64_t>(N) + twice - 1);
    return table[static_cast<std::size_t>(drawn < 2 * twice ? drawn / 2 : drawn - twice)].kind;
  }

 private:
  CounterGenerator generator_;
  std::uint64_t next_ = 0;
};

}  // namespace moeref
