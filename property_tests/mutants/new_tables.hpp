// The tables of mutants, one per subject.
#pragma once

#include <span>

#include "property_tests/mutants/mutant.hpp"

namespace moeref {

std::span<const Mutant> router_catalogue_mutants();
std::span<const Mutant> loss_catalogue_mutants();
std::span<const Mutant> bias_catalogue_mutants();
std::span<const Mutant> experts_catalogue_mutants();
std::span<const Mutant> layer_catalogue_mutants();
std::span<const Mutant> ranks_catalogue_mutants();
std::span<const Mutant> inexpressible_mutants();
std::span<const Mutant> bugs_2026_mutants();
std::span<const Mutant> router_size_mutants();
std::span<const Mutant> experts_size_mutants();
std::span<const Mutant> precision_mutants();
std::span<const Mutant> slope_mutants();
std::span<const Mutant> gradient_mutants();
std::span<const Mutant> other_suite_mutants();
std::span<const Mutant> cheating_mutants();

}  // namespace moeref
