// The rows that a product of quantised operands multiplies, quantised per row and group of columns, with the
// bound of what honest quantisers make of them (SPEC 11).
#pragma once

#include <vector>

#include "moeref/activation_format.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// For each number of quantised rows [rows, K] the least and the largest power of two (e4m3_power) times
/// scale that a quantiser's code for it can have.
struct CodePowers {
  std::vector<double> least, most;
};

/// Rows [rows, K] as the numbers code * scale that stand for them, for a product in float32; `none` gives the
/// rows as they are. The value is made from the rows' values: scale by ScaleRule, code of value / scale in
/// float32 to nearest even, saturating. The bound covers every code and scale that a quantiser in float32
/// (three roundings to a scale, three to a quotient) can come to from a row within its own bound: where these
/// agree on a code, it is that of the scale's roundings, none for a power of two; else it has the step
/// between codes. Groups of zeros are zeros. Nothing is asked of a group that may hold a number that float32
/// does not, or whose largest number may be below 2^-100 and not 0: its bounds are infinite. Fills `powers`
/// where they are wanted.
Bounded quantize_activations(ActivationFormat format, Bounded rows, CodePowers* powers = nullptr);

}  // namespace moeref
