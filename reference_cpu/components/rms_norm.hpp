// Rows over their root mean square, times a factor per column (SPEC 10): the gate's tokens, and rows of the
// latent size.
#pragma once

#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// x [T, C] / sqrt(mean x^2 + eps) row by row in float32, stored in x's type, times weight [1, C] and
/// `factor`; in `out`.
Bounded rms_norm(const Bounded& x, const Bounded& weight, double eps, double factor, DType out);

/// From d [T, C], the cotangent of that, the one of x, in x's type; and, row by row, the terms whose sum over
/// rows is the gradient of weight, in the finer of both types.
struct RMSNormBackward {
  Bounded x, weight_rows;
};
RMSNormBackward rms_norm_backward(const Bounded& x, const Bounded& weight, double eps, double factor,
                                  const Bounded& d);

}  // namespace moeref
