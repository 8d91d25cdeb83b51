// One table of properties a file; a new file is named here and in CMakeLists.txt.
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
std::span<const Property> router_masking_properties();
std::span<const Property> aux_loss_properties();
std::span<const Property> aux_gradient_properties();
std::span<const Property> bias_update_properties();
std::span<const Property> bias_update_model_properties();
std::span<const Property> init_properties();
std::span<const Property> metrics_properties();
std::span<const Property> balanced_gate_properties();

inline constexpr std::array kPropertyTables{
    &router_symmetry_properties,   &router_selection_properties,
    &router_weight_properties,     &router_group_properties,
    &router_masking_properties,    &aux_loss_properties,
    &aux_gradient_properties,      &bias_update_properties,
    &bias_update_model_properties, &init_properties,
    &metrics_properties,           &balanced_gate_properties,
};

}  // namespace moeref
