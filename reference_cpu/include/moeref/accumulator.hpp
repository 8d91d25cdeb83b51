// In what the products of two quantised operands are added up (SPEC 11.1 has the rules and sources).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class Accumulator : std::uint8_t {
  float32,            ///< over the whole reduction
  e8m13_promoted128,  ///< as Hopper's FP8 tensor cores add, each 128 columns' sum to float32
};

struct AccumulatorFacts {
  Accumulator kind;
  std::string_view name;
  int fraction_bits = 23;        ///< below the largest power of two in a sum
  std::int64_t instruction = 1;  ///< columns that one instruction adds to the sum so far
  std::int64_t promotion = 0;    ///< columns whose sum goes on to a float32 sum; 0 = there is one sum
};

/// One row per accumulator, in the order of the enum.
inline constexpr auto kAccumulators = std::to_array<AccumulatorFacts>({
    {.kind = Accumulator::float32, .name = "float32"},
    {.kind = Accumulator::e8m13_promoted128,
     .name = "e8m13_promoted128",
     .fraction_bits = 13,
     .instruction = 32,
     .promotion = 128},
});

constexpr const AccumulatorFacts& facts(Accumulator accumulator) {
  return kAccumulators[static_cast<std::size_t>(accumulator)];
}

/// The enum's table, by which it is read and named as conventions are.
constexpr const auto& rows_of(Accumulator) { return kAccumulators; }

}  // namespace moeref
