// Arrays of a call that may not lie in each other: kernels write their results while others still read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {

struct Extent {
  const char* name;
  const void* begin;
  std::size_t bytes;
};

/// Rows of a matrix on the device.
inline Extent extent(const char* name, const void* begin, std::int64_t rows, int width, DataType type) {
  return {name, begin, static_cast<std::size_t>(rows) * static_cast<std::size_t>(width) * bytes_of(type)};
}

/// Throws ArgumentError where an array that is written shares bytes with another one of the call. Null and
/// empty arrays share none.
inline void check_apart(std::initializer_list<Extent> written, std::initializer_list<Extent> read) {
  const auto overlap = [](const Extent& a, const Extent& b) {
    const auto first = reinterpret_cast<std::uintptr_t>(a.begin),
               second = reinterpret_cast<std::uintptr_t>(b.begin);
    return a.begin && b.begin && a.bytes > 0 && b.bytes > 0 && first < second + b.bytes &&
           second < first + a.bytes;
  };
  const auto check_pair = [&](const Extent& a, const Extent& b) {
    if (overlap(a, b)) throw ArgumentError(std::string(a.name) + " overlaps " + b.name + ": want them apart");
  };
  for (const Extent* w = written.begin(); w != written.end(); ++w) {
    for (const Extent* other = w + 1; other != written.end(); ++other) check_pair(*w, *other);
    for (const Extent& r : read) check_pair(*w, r);
  }
}

}  // namespace moeref::cuda
