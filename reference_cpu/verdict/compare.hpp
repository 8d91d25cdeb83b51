// The values of one tensor against the reference's and their bounds.
#pragma once

#include <string>

#include "moeref/evaluation.hpp"
#include "moeref/tensor.hpp"
#include "moeref/verdict.hpp"

namespace moeref {

/// FAIL without an element to blame: missing, a wrong shape, ...
TensorVerdict failed(const std::string& tensor, std::string finding);

/// The element with the largest r = |value - reference| / bound, of several equal ones the first. FAIL where
/// r > 1, the shape is another or floating values are none; AMBIGUOUS where elements have no finite bound.
TensorVerdict compare(const std::string& tensor, const Tensor& candidate, const BoundedTensor& reference);

}  // namespace moeref
