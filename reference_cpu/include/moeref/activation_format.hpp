// Whether the rows that the routed experts' products multiply are quantised too, and by which rule (SPEC 11
// has the formulas and sources).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class ActivationFormat : std::uint8_t {
  none,                     ///< numbers of x's type
  fp8_e4m3_group128,        ///< e4m3, a float32 scale per token and 128 columns
  fp8_e4m3_group128_ue8m0,  ///< the same with scales that are powers of two, rounded up
  mxfp8,                    ///< e4m3, a power of two per token and 32 columns, rounded down
  mxfp8_rceil,              ///< the same, rounded up
};

/// The scale of a group whose largest absolute value is m. Codes are those of e4m3, whose largest is 448.
enum class ScaleRule : std::uint8_t {
  quotient,     ///< m / 448 in float32
  power_below,  ///< 2^(floor(log2 m) - 8): up to 512 scales, of which those past 448 saturate
  power_above,  ///< 2^ceil(log2(m / 448)): nothing saturates
};

struct ActivationFormatFacts {
  ActivationFormat kind;
  std::string_view name;
  std::int64_t group = 1;  ///< neighbours along the contraction that share a scale
  ScaleRule scale = ScaleRule::quotient;
  bool cut_groups = false;  ///< the last group of a row may be cut short
};

/// One row per format, in the order of the enum.
inline constexpr auto kActivationFormats = std::to_array<ActivationFormatFacts>({
    {.kind = ActivationFormat::none, .name = "none"},
    {.kind = ActivationFormat::fp8_e4m3_group128,
     .name = "fp8_e4m3_group128",
     .group = 128,
     .cut_groups = true},
    {.kind = ActivationFormat::fp8_e4m3_group128_ue8m0,
     .name = "fp8_e4m3_group128_ue8m0",
     .group = 128,
     .scale = ScaleRule::power_above,
     .cut_groups = true},
    {.kind = ActivationFormat::mxfp8, .name = "mxfp8", .group = 32, .scale = ScaleRule::power_below},
    {.kind = ActivationFormat::mxfp8_rceil,
     .name = "mxfp8_rceil",
     .group = 32,
     .scale = ScaleRule::power_above},
});

/// All but none.
inline constexpr auto kQuantisedActivations = [] {
  std::array<ActivationFormat, kActivationFormats.size() - 1> out{};
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = kActivationFormats[i + 1].kind;
  return out;
}();

constexpr const ActivationFormatFacts& facts(ActivationFormat format) {
  return kActivationFormats[static_cast<std::size_t>(format)];
}

/// The enum's table, by which it is read and named as conventions are.
constexpr const auto& rows_of(ActivationFormat) { return kActivationFormats; }

}  // namespace moeref
