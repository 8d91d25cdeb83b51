// Random calls whose products are of two quantised operands.
#pragma once

#include <cstdint>
#include <string>

#include "moeref/accumulator.hpp"
#include "moeref/implementation.hpp"
#include "moeref/verdict.hpp"

namespace moeref {

/// A call of experts or moe with four tokens, of one of the formats of weights with one of those of
/// activations, both by the seed and such as the accumulator goes with; of ordinary numbers, or of ones with
/// zeros, outliers and rows far apart.
Call quantised_operands(Component component, DType dtype, std::uint64_t seed, bool ordinary = false,
                        Accumulator accumulator = Accumulator::float32);

/// What a test says of a call that fails: its config, and its first failing tensor.
std::string described(const Call& call, const TensorVerdict& failure);

}  // namespace moeref
