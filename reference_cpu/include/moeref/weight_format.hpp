// How the routed experts' weights are stored: as numbers of the config's dtype, or quantised, as codes of few
// bits with a scale per block (SPEC 11 has the formulas and sources).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "moeref/tensor.hpp"

namespace moeref {

enum class WeightFormat : std::uint8_t {
  none,
  fp8_e4m3_block128,
  mxfp8,
  mxfp4,
  nvfp4,
  int4_group32,
  int4_group128
};

/// Codes of 8 or 4 bits and the numbers that they stand for: reference_cpu/quantization/element_codec.hpp.
enum class ElementCodec : std::uint8_t {
  e4m3,  ///< sign, 4 bits of exponent with bias 7, 3 of significand; no infinities; 0x7f and 0xff are NaN
  e2m1,  ///< sign, 2 bits of exponent with bias 1, 1 of significand: 0, 1/2, 1, 3/2, 2, 3, 4, 6
  int4,  ///< the integer plus 8
  e8m0,  ///< 2^(code - 127); 255 is NaN
};

/// Whether two codes share a byte, the first in its low half.
constexpr bool is_packed(ElementCodec codec) {
  return codec == ElementCodec::e2m1 || codec == ElementCodec::int4;
}

/// What the scales of blocks are stored in.
enum class ScaleType : std::uint8_t { float32, bfloat16, e8m0, e4m3 };

struct WeightFormatFacts {
  WeightFormat kind;
  std::string_view name;
  ElementCodec element = ElementCodec::e4m3;
  std::int64_t block_n = 1;  ///< outputs that share a scale
  std::int64_t block_k = 1;  ///< neighbours along the contraction that share it
  ScaleType scale = ScaleType::float32;
  bool expert_scale = false;  ///< one more factor per expert, in float32
  bool cut_blocks = false;    ///< the last block of a row or column may be cut short
  bool block_axis = false;    ///< codes have an axis of blocks: [E, N, K / block_k, bytes of a block]
  /// How often float32 rounds on the way to code * scale * expert scale, in the worst order.
  int float32_roundings = 0;
};

/// One row per format, in the order of the enum.
inline constexpr auto kWeightFormats = std::to_array<WeightFormatFacts>({
    {.kind = WeightFormat::none, .name = "none"},
    {.kind = WeightFormat::fp8_e4m3_block128,
     .name = "fp8_e4m3_block128",
     .block_n = 128,
     .block_k = 128,
     .cut_blocks = true,
     .float32_roundings = 1},
    {.kind = WeightFormat::mxfp8, .name = "mxfp8", .block_k = 32, .scale = ScaleType::e8m0},
    {.kind = WeightFormat::mxfp4,
     .name = "mxfp4",
     .element = ElementCodec::e2m1,
     .block_k = 32,
     .scale = ScaleType::e8m0,
     .block_axis = true},
    {.kind = WeightFormat::nvfp4,
     .name = "nvfp4",
     .element = ElementCodec::e2m1,
     .block_k = 16,
     .scale = ScaleType::e4m3,
     .expert_scale = true,
     .float32_roundings = 2},
    {.kind = WeightFormat::int4_group32,
     .name = "int4_group32",
     .element = ElementCodec::int4,
     .block_k = 32,
     .scale = ScaleType::bfloat16},
    {.kind = WeightFormat::int4_group128,
     .name = "int4_group128",
     .element = ElementCodec::int4,
     .block_k = 128,
     .scale = ScaleType::bfloat16},
});

/// The formats that have codes: all but none.
inline constexpr auto kQuantisedFormats = [] {
  std::array<WeightFormat, kWeightFormats.size() - 1> out{};
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = kWeightFormats[i + 1].kind;
  return out;
}();

constexpr const WeightFormatFacts& facts(WeightFormat format) {
  return kWeightFormats[static_cast<std::size_t>(format)];
}

/// The enum's table, by which it is read and named as conventions are.
constexpr const auto& rows_of(WeightFormat) { return kWeightFormats; }

/// The matrices of E experts, x [K] times W [K, N] each. Quantised they are stored by output: [N, K].
struct ExpertsShape {
  std::int64_t experts, k, n;
};

/// One of the tensors that stand for a parameter.
struct StoredWeights {
  std::string_view suffix;  ///< of the parameter's name: "_codes", "_scales", "_expert_scales"
  DType dtype;
  Shape shape;
};

/// Those of a quantised format: codes [E, N, bytes of K codes] or with an axis of blocks, uint8; scales
/// [E, N / block_n, K / block_k], both rounded up, of the scale's own type or uint8 for e8m0 and e4m3; expert
/// scales [E].
std::vector<StoredWeights> stored_weights(WeightFormat format, const ExpertsShape& shape);

}  // namespace moeref
