// A call of experts or moe with its weights quantised, and the one that computes the same with numbers.
#pragma once

#include "moeref/accumulator.hpp"
#include "moeref/activation_format.hpp"
#include "moeref/implementation.hpp"
#include "moeref/weight_format.hpp"

namespace moeref {

/// The call with its experts' weights quantised (quantize), and the config's weight_format, activation_format
/// and accumulator. Throws InputError as quantize does, for a component without experts' weights, and for
/// an impossible choice of these.
Call quantized_call(Call call, WeightFormat weights, ActivationFormat activations = ActivationFormat::none,
                    Accumulator accumulator = Accumulator::float32);

/// The same call with numbers in place of codes: exact ones, in the config's dtype if that holds them all,
/// else in float32 or float64. Without quantised weights it is the call itself. There are no quantised
/// activations without them: activation_format and accumulator go too, and with the former the two calls
/// differ. Throws InputError as find_quantized does.
Call dequantized_call(Call call);

}  // namespace moeref
