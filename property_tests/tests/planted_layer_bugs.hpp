// Wrong experts, MLPs and layers, one rank and several: see planted_bugs.hpp.
#pragma once

#include "planted_bugs.hpp"

namespace moeref {

std::span<const PlantedBug> planted_layer_bugs();

}  // namespace moeref
