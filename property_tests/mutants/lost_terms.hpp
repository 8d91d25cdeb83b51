// Backward passes that lack one term, on top of a sound implementation's results.
#pragma once

#include "moeref/implementation.hpp"
#include "property_tests/router/router_oracle.hpp"

namespace moeref {

/// a b, or a b^T, or a^T b, in double.
Matrix product(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b);

/// The slope of SiLU in an MLP or in experts is sigmoid alone.
NamedTensors silu_slope_is_sigmoid(Implementation& sound, const Call& call);

/// dz = s ds in place of s (ds - sum s ds), in gates without normalisation and loss.
NamedTensors softmax_backward_without_sum(Implementation& sound, const Call& call);

/// The sum of the selected sigmoids is taken for a constant: each gradient lacks w_j / total sum_i dw_i w_i.
NamedTensors renormalisation_without_gradient(Implementation& sound, const Call& call);

}  // namespace moeref
