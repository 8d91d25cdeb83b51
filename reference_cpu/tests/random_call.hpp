// Small random calls over the whole space of configs, types and magnitudes, for tests that hold for every call.
#pragma once

#include <cstdint>

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

/// The same call for the same numbers, on every platform. Forward and backward.
Call random_call(Component component, DType dtype, std::uint64_t seed);

/// One line that says which call it is.
std::string describe(const Call& call);

}  // namespace moeref
