// Gradients of a call against central differences of its own forward, in float64, on a fixed routing.
#pragma once

#include "moeref/reference.hpp"

namespace moeref {

/// Checks every "grads/..." of a float64 call, element by element (inputs of up to `most` elements, strided
/// beyond), and the adjoint identity <J v, u> = <v, J^T u> along random directions v of all inputs together.
/// u are the call's own cotangents; the auxiliary loss counts with its coefficient and the backward scale.
void expect_central_differences(const Call& call, double tolerance = 2e-7, std::int64_t most = 400);

}  // namespace moeref
