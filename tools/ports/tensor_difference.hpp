// The first difference of two results that should have the same bits; all NaNs count as the same.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "moeref/tensor.hpp"

namespace moeref {

/// The first element, row-major, in which two tensors of one shape differ.
std::optional<std::int64_t> first_difference(const Tensor& a, const Tensor& b);

/// "outputs/y[3, 0] is 1.5 and 1.25" for the first element that differs. Nothing where all are the same.
std::optional<std::string> differing_results(const NamedTensors& a, const NamedTensors& b);

}  // namespace moeref
