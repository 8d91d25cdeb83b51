// The formats that have codes: all but none.
#pragma once

#include <array>

#include "moeref/weight_format.hpp"

namespace moeref {

inline constexpr std::array kQuantised{
    WeightFormat::fp8_e4m3_block128, WeightFormat::mxfp8,        WeightFormat::mxfp4, WeightFormat::nvfp4,
    WeightFormat::int4_group32,      WeightFormat::int4_group128};
static_assert(kQuantised.size() + 1 == kWeightFormats.size());

}  // namespace moeref
