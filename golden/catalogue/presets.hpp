// MoE layers of published models: at their real width, and reduced to a few kilobytes with the same routing
// structure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/config.hpp"

namespace moeref {

struct Preset {
  std::string name;   ///< "qwen3_30b"
  std::string model;  ///< "Qwen/Qwen3-30B-A3B"
  MoEConfig full;     ///< bfloat16
  MoEConfig
      reduced;  ///< bfloat16; k, E and groups scaled down, activations and limits scaled to reach the clamps
  nlohmann::json options;  ///< call options that belong to the model: its gate precision
};

const std::vector<Preset>& presets();

/// Throws InputError that lists the names.
const Preset& find_preset(std::string_view name);

}  // namespace moeref
