// How products of float32 tensors read their operands.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class Float32Products : std::uint8_t {
  float32,  ///< as they are
  tf32,     ///< rounded to TF32: float32's exponents with 10 bits after the point
};

struct Float32ProductsFacts {
  Float32Products kind;
  std::string_view name;
};

/// One row per enumerator, in the order of the enum.
inline constexpr auto kFloat32Products = std::to_array<Float32ProductsFacts>({
    {.kind = Float32Products::float32, .name = "float32"},
    {.kind = Float32Products::tf32, .name = "tf32"},
});

std::string_view name(Float32Products products);

}  // namespace moeref
