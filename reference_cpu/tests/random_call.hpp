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

enum class Rules : std::uint8_t {
  any,         ///< in half of the calls with conventions that the documented system does not have
  documented,  ///< none of these, for ports that do not know them
};

/// The same call for the same arguments, on every platform. Forward and backward.
Call random_call(Component component, DType dtype, std::uint64_t seed, Numbers numbers = Numbers::adversarial,
                 Rules rules = Rules::any);

/// One line that says which call it is.
std::string describe(const Call& call);

}  // namespace moeref
