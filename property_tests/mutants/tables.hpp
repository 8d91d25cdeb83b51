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
std::span<const Mutant> router_catalogue_mutants();
std::span<const Mutant> loss_catalogue_mutants();
std::span<const Mutant> bias_catalogue_mutants();
std::span<const Mutant> experts_catalogue_mutants();
std::span<const Mutant> layer_catalogue_mutants();
std::span<const Mutant> ranks_catalogue_mutants();
std::span<const Mutant> bugs_2026_mutants();
std::span<const Mutant> router_size_mutants();
std::span<const Mutant> router_path_mutants();
std::span<const Mutant> experts_size_mutants();
std::span<const Mutant> precision_mutants();
std::span<const Mutant> slope_mutants();
std::span<const Mutant> gradient_mutants();
std::span<const Mutant> other_suite_mutants();
std::span<const Mutant> cheating_mutants();
std::span<const Mutant> holes_mutants();
std::span<const Mutant> inexpressible_mutants();
std::span<const Mutant> score_convention_mutants();
std::span<const Mutant> router_input_convention_mutants();
std::span<const Mutant> selection_convention_mutants();
std::span<const Mutant> loss_convention_mutants();
std::span<const Mutant> several_loss_mutants();
std::span<const Mutant> quantization_mutants();
std::span<const Mutant> quantised_product_mutants();
std::span<const Mutant> accumulator_mutants();
std::span<const Mutant> compute_dtype_mutants();
std::span<const Mutant> quantile_mutants();
std::span<const Mutant> slot_mutants();
std::span<const Mutant> capacity_mutants();
std::span<const Mutant> latent_norm_mutants();

inline constexpr std::array kMutantTables{
    &gate_mutants,
    &gate_gradient_mutants,
    &training_mutants,
    &experts_mutants,
    &backward_mutants,
    &layer_mutants,
    &rank_mutants,
    &selection_mutants,
    &size_mutants,
    &update_mutants,
    &router_catalogue_mutants,
    &loss_catalogue_mutants,
    &bias_catalogue_mutants,
    &experts_catalogue_mutants,
    &layer_catalogue_mutants,
    &ranks_catalogue_mutants,
    &bugs_2026_mutants,
    &router_size_mutants,
    &router_path_mutants,
    &experts_size_mutants,
    &precision_mutants,
    &slope_mutants,
    &gradient_mutants,
    &other_suite_mutants,
    &cheating_mutants,
    &holes_mutants,
    &inexpressible_mutants,
    &score_convention_mutants,
    &router_input_convention_mutants,
    &selection_convention_mutants,
    &loss_convention_mutants,
    &several_loss_mutants,
    &quantization_mutants,
    &quantised_product_mutants,
    &accumulator_mutants,
    &compute_dtype_mutants,
    &quantile_mutants,
    &slot_mutants,
    &capacity_mutants,
    &latent_norm_mutants,
};

}  // namespace moeref
