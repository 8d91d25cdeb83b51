// Small random calls over the whole space of configs, types and magnitudes, for tests that hold for every
// call.
#pragma once

#include <cstdint>

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

enum class Numbers : std::uint8_t {
  ordinary,     ///< of order one, as in a layer that trains
  adversarial,  ///< also tiny, huge, zero, with outliers; extreme logits; other types than the config's
};

/// The same call for the same arguments, on every platform. Forward and backward.
Call random_call(Component component, DType dtype, std::uint64_t seed,
                 Numbers numbers = Numbers::adversarial);

/// One line that says which call it is.
std::string describe(const Call& call);

}  // namespace moeref
