#include "tools/ports/tensor_difference.hpp"

#include <fmt/core.h>

#include <cmath>
#include <cstring>

#include "reference_cpu/arithmetic/parallel_for.hpp"

namespace moeref {
namespace {

bool same_bits(double a, double b) {
  return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b);
}

}  // namespace

std::optional<std::int64_t> first_difference(const Tensor& a, const Tensor& b) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 20;
  const auto width = static_cast<std::size_t>(size_of(a.dtype()));
  return parallel_first(
      a.size(), kPiece, [&](std::int64_t first, std::int64_t size) -> std::optional<std::int64_t> {
        const auto at = static_cast<std::size_t>(first) * width,
                   bytes = static_cast<std::size_t>(size) * width;
        const bool alike =
            a.dtype() == b.dtype() && std::memcmp(a.bytes().data() + at, b.bytes().data() + at, bytes) == 0;
        for (std::int64_t i = first; !alike && i < first + size; ++i)
          if (!same_bits(a[i], b[i])) return i;
        return std::nullopt;
      });
}

std::optional<std::string> differing_results(const NamedTensors& a, const NamedTensors& b) {
  for (const auto& [name, mine] : a) {
    const auto it = b.find(name);
    if (it == b.end()) return name + " is there and is not";
    const Tensor& other = it->second;
    if (mine.shape() != other.shape())
      return fmt::format("{} has shape {} and {}", name, to_string(mine.shape()), to_string(other.shape()));
    if (const auto i = first_difference(mine, other))
      return fmt::format("{}{} is {:.9g} and {:.9g}", name, coordinates(*i, mine.shape()), mine[*i],
                         other[*i]);
  }
  for (const auto& [name, tensor] : b)
    if (!a.contains(name)) return name + " is there and is not";
  return std::nullopt;
}

}  // namespace moeref
