// What sums of products of codes lose in an accumulator of few bits (SPEC 11.1).
#pragma once

#include <vector>

#include "moeref/accumulator.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/quantization/quantize_activations.hpp"

namespace moeref {

/// For each element of rows [M, K] times weights [K, N], how far from the sum of its products, added up in
/// float32, the sums of an accumulator that truncates can be. `powers` are those of the rows' codes,
/// `of_weights` [K, N] those of the weights' (code_powers). Empty for an accumulator that has one sum, whose
/// bound is that of its type.
std::vector<double> lost_by_truncation(const AccumulatorFacts& accumulator, const Bounded& rows,
                                       const CodePowers& powers, const Bounded& weights,
                                       const std::vector<double>& of_weights);

}  // namespace moeref
