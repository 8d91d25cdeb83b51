// One table of properties per file; a new file is named here and in CMakeLists.txt.
#pragma once

#include <array>
#include <span>

#include "moeref/property.hpp"

namespace moeref {

using PropertyTable = std::span<const Property> (*)();

std::span<const Property> router_symmetry_properties();
std::span<const Property> router_selection_properties();
std::span<const Property> router_weight_properties();
std::span<const Property> router_group_properties();
std::span<const Property> score_convention_properties();
std::span<const Property> selection_convention_properties();
std::span<const Property> router_input_convention_properties();
std::span<const Property> router_masking_properties();
std::span<const Property> aux_loss_properties();
std::span<const Property> aux_gradient_properties();
std::span<const Property> several_losses_properties();
std::span<const Property> bias_update_properties();
std::span<const Property> bias_update_convention_properties();
std::span<const Property> bias_update_round_properties();
std::span<const Property> bias_update_model_properties();
std::span<const Property> init_properties();
std::span<const Property> metrics_properties();
std::span<const Property> balanced_gate_properties();
std::span<const Property> activation_value_properties();
std::span<const Property> experts_linearity_properties();
std::span<const Property> experts_slot_properties();
std::span<const Property> experts_locality_properties();
std::span<const Property> experts_choice_properties();
std::span<const Property> quantized_experts_properties();
std::span<const Property> quantised_products_properties();
std::span<const Property> promoted_sums_properties();
std::span<const Property> rounded_operands_properties();
std::span<const Property> null_slot_properties();
std::span<const Property> capacity_properties();
std::span<const Property> expert_convention_properties();
std::span<const Property> latent_norm_properties();
std::span<const Property> layer_part_properties();
std::span<const Property> layer_token_properties();
std::span<const Property> batch_invariance_properties();
std::span<const Property> gradient_difference_properties();
std::span<const Property> gradient_flow_properties();
std::span<const Property> parallel_rank_properties();
std::span<const Property> repeatability_properties();
std::span<const Property> size_properties();

inline constexpr std::array kPropertyTables{
    &router_symmetry_properties,
    &router_selection_properties,
    &router_weight_properties,
    &router_group_properties,
    &score_convention_properties,
    &selection_convention_properties,
    &router_input_convention_properties,
    &router_masking_properties,
    &aux_loss_properties,
    &aux_gradient_properties,
    &several_losses_properties,
    &bias_update_convention_properties,
    &bias_update_properties,
    &bias_update_round_properties,
    &bias_update_model_properties,
    &init_properties,
    &metrics_properties,
    &balanced_gate_properties,
    &activation_value_properties,
    &experts_linearity_properties,
    &experts_slot_properties,
    &experts_locality_properties,
    &experts_choice_properties,
    &quantized_experts_properties,
    &quantised_products_properties,
    &promoted_sums_properties,
    &rounded_operands_properties,
    &null_slot_properties,
    &capacity_properties,
    &expert_convention_properties,
    &latent_norm_properties,
    &layer_part_properties,
    &layer_token_properties,
    &batch_invariance_properties,
    &gradient_difference_properties,
    &gradient_flow_properties,
    &parallel_rank_properties,
    &repeatability_properties,
    &size_properties,
};

}  // namespace moeref
