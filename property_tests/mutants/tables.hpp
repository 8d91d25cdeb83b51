// One table of mutants per file; a new file is named here and in CMakeLists.txt.
#pragma once

#include <array>
#include <span>

#include "property_tests/mutants/mutant.hpp"

namespace moeref {

using MutantTable = std::span<const Mutant> (*)();

std::span<const Mutant> gate_mutants();
std::span<const Mutant> gate_gradient_mutants();
std::span<const Mutant> training_mutants();
std::span<const Mutant> experts_mutants();
std::span<const Mutant> backward_mutants();
std::span<const Mutant> layer_mutants();
std::span<const Mutant> rank_mutants();
std::span<const Mutant> selection_mutants();
std::span<const Mutant> size_mutants();
std::span<const Mutant> update_mutants();

inline constexpr std::array kMutantTables{
    &gate_mutants,  &gate_gradient_mutants, &training_mutants,  &experts_mutants, &backward_mutants,
    &layer_mutants, &rank_mutants,          &selection_mutants, &size_mutants,    &update_mutants,
};

}  // namespace moeref
