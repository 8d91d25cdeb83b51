// A call of experts or moe with its weights quantised, and the one that computes the same with numbers.
#pragma once

#include "moeref/implementation.hpp"
#include "moeref/weight_format.hpp"

namespace moeref {

/// The call with its experts' weights quantised (quantize), and the config's weight_format. Throws InputError
/// as quantize does, and for a component without experts' weights.
Call quantized_call(Call call, WeightFormat format);

/// The same call with numbers in place of codes: exact ones, in the config's dtype if that holds them all,
/// else in float32 or float64. Without quantised weights it is the call itself. Throws InputError as
/// find_quantized does.
Call dequantized_call(Call call);

}  // namespace moeref
