#include "reference_cpu/arithmetic/parallel_memory.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

/// Bytes that a thread works on at a time: smaller buffers are not worth a thread.
constexpr std::int64_t kPiece = std::int64_t{4} << 20;

}  // namespace

void copy_in_parallel(std::span<const std::byte> from, std::byte* to) {
  parallel_pieces(static_cast<std::int64_t>(from.size()), kPiece, [&](std::int64_t first, std::int64_t size) {
    std::memcpy(to + first, from.data() + first, static_cast<std::size_t>(size));
  });
}

std::optional<std::size_t> first_difference(std::span<const std::byte> a, const std::byte* b) {
  const auto at = parallel_first(
      static_cast<std::int64_t>(a.size()), kPiece,
      [&](std::int64_t begin, std::int64_t count) -> std::optional<std::int64_t> {
        const auto first = static_cast<std::size_t>(begin), size = static_cast<std::size_t>(count);
        if (std::memcmp(a.data() + first, b + first, size) == 0) return std::nullopt;
        return begin + (std::mismatch(a.data() + first, a.data() + first + size, b + first).first -
                        (a.data() + first));
      });
  return at ? std::optional<std::size_t>(static_cast<std::size_t>(*at)) : std::nullopt;
}

}  // namespace moeref
