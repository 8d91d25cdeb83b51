// Two ports on the same calls: where their choices of experts and their values differ, and whether rounding
// explains it. Neither is taken for right; what each may do is known from the reference's bounds.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moeref/float32_products.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

/// Who is to blame for a difference that rounding does not explain.
enum class Blame : std::uint8_t { none, a, b, both };

/// "A", "B", "A and B".
std::string_view name(Blame blame);

/// Ratios |a - b| / (bound of a + bound of b) over all elements of one tensor.
struct RatioDistribution {
  std::int64_t elements = 0;
  std::int64_t differing = 0;  ///< with other bits
  std::int64_t beyond = 0;     ///< with a ratio above 1
  double worst = 0.0;
  std::string worst_place;  ///< "outputs/y[3, 5]"
  double worst_a = 0.0, worst_b = 0.0;
  std::string worst_line;     ///< the call
  std::vector<float> ratios;  ///< of every element, for quantiles

  /// The ratio that this share of the elements stays below.
  double quantile(double share) const;
};

struct Unexplained {
  std::string line;  ///< the call: a descriptor's line, or a golden file
  std::string text;
  Blame blame = Blame::none;
};

struct Agreement {
  std::int64_t calls = 0;
  std::int64_t declined = 0;  ///< calls that one of them does not support
  std::int64_t tokens = 0, alike = 0, explained = 0, unexplained_tokens = 0;
  std::map<std::string, RatioDistribution> tensors;
  std::vector<Unexplained> unexplained;  ///< tokens, values and calls

  double worst_ratio() const;
  bool agrees() const { return unexplained.empty() && calls > 0; }
};

/// What each of two ports made of one call, under its tie rule and the option by which it is judged. Tokens:
/// the same experts; other experts, and each side's choice is within the reference's bounds or follows from
/// the logits that it shows; or not, and which side's is not. Values of tokens that went to the same experts,
/// expert by expert; sums over all tokens where all of them did.
struct AgreementSide {
  NamedTensors results;
  bool lowest_id_first = false;
  Float32Products products = Float32Products::float32;
};
void compare(const Call& call, const std::string& line, const AgreementSide& a, const AgreementSide& b,
             Agreement& total);

/// The last line of the report.
std::string summary_line(const Agreement& agreement);

}  // namespace moeref
