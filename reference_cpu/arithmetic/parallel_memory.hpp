// memcpy and memcmp for buffers of gigabytes, on all threads.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace moeref {

/// `to` has room for all of `from`; they do not overlap.
void copy_in_parallel(std::span<const std::byte> from, std::byte* to);

/// The first byte at which `b` differs from `a`; `b` has as many.
std::optional<std::size_t> first_difference(std::span<const std::byte> a, const std::byte* b);

}  // namespace moeref
