#include "reference_cpu/arithmetic/parallel_memory.hpp"

#include <algorithm>
#include <atomic>
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
  std::atomic<std::size_t> at{a.size()};
  parallel_pieces(static_cast<std::int64_t>(a.size()), kPiece, [&](std::int64_t begin, std::int64_t size) {
    const auto first = static_cast<std::size_t>(begin);
    if (first > at || std::memcmp(a.data() + first, b + first, static_cast<std::size_t>(size)) == 0) return;
    const auto piece = a.subspan(first, static_cast<std::size_t>(size));
    const auto found =
        first + static_cast<std::size_t>(
                    std::ranges::mismatch(piece, std::span(b + first, piece.size())).in1 - piece.begin());
    std::size_t earliest = at;
    while (found < earliest && !at.compare_exchange_weak(earliest, found)) continue;
  });
  return at == a.size() ? std::nullopt : std::optional<std::size_t>(at);
}

}  // namespace moeref
