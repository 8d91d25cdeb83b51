// How a port adds up its sums, measured: the order (summation_tree.hpp), how many bits the accumulator has,
// and whether it rounds to nearest or cuts off. Every term of the probed sums is a product of two powers of
// two, or of 64 and one.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

/// Computes a call; throws std::runtime_error with the reason where there are no results.
using RunCall = std::function<NamedTensors(const Call&)>;

/// A sum inside of a component.
struct SumKind {
  std::string_view name;  ///< "gate logits"
  Component component;
  std::string_view over;  ///< what the terms are: "dim"
  std::int64_t most_terms;
  /// The sums of terms[v] for every v. Each is a vector of as many terms as the sum shall have.
  std::vector<double> (*sums)(const RunCall& run, DType dtype, std::span<const std::vector<double>> terms);
};

std::span<const SumKind> sum_kinds();

struct SumFindings {
  std::string order;  ///< in words, or the tree where it has no regular shape; empty where `unknown` says why
  std::string tree;   ///< whole
  int bits = 0;       ///< of the accumulator's significand, 0 = not measured
  bool cuts_off = false;
  std::string unknown;  ///< why the order could not be recovered
};

/// Float16 has too few exponents for it. The sum has min(terms, kind.most_terms) terms.
SumFindings probe_sum(const SumKind& kind, const RunCall& run, DType dtype, std::int64_t terms);

/// "float32 (24 bits)", "17 bits".
std::string accumulator_in_words(int bits);

}  // namespace moeref
