// The division of routing weights and of scores by their sum (SPEC 3.2, 10).
#pragma once

#include <span>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/real.hpp"

namespace moeref {

/// a_i / sum, in the precision of the row; of norm_denominator and norm_eps, the sum is the denominator.
std::vector<Real> normalise(const MoEConfig& config, std::span<const Real> row);

/// Whether the denominator of a row may be 0, or is not a number.
bool may_divide_by_zero(const MoEConfig& config, std::span<const Real> row);

/// d_i / sum - (sum_j d_j a_j / sum) / sum: the direct part, and the part through the sum.
struct NormaliseGradient {
  std::vector<Real> direct;
  Real through_sum;
};
NormaliseGradient normalise_gradient(const MoEConfig& config, std::span<const Real> row,
                                     std::span<const Real> cotangent);

}  // namespace moeref
