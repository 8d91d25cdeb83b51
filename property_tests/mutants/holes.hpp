// Mutants that passed the suite once, each behind a property that was made or mended for it.
#pragma once

#include <span>

#include "property_tests/mutants/mutant.hpp"

namespace moeref {

std::span<const Mutant> holes_mutants();

}  // namespace moeref
