// Loops over all elements of a tensor, which has hundreds of millions at full width.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "moeref/tensor.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {

inline constexpr std::int64_t kChunk = 4096;

/// Calls body(first index, elements as doubles) for every chunk of kChunk elements, on all threads.
template <class Body>
void for_each_chunk(const Tensor& tensor, const Body& body) {
  parallel_pieces(tensor.size(), kChunk, [&](std::int64_t first, std::int64_t size) {
    std::array<double, kChunk> buffer;
    const std::span<double> values(buffer.data(), static_cast<std::size_t>(size));
    tensor.read(first, values);
    body(first, std::span<const double>(values));
  });
}

}  // namespace moeref
