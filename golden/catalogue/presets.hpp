// MoE layers of published models: at their real width, and at widths of a few numbers with the same routing.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/config.hpp"

namespace moeref {

/// What `moeref bench` knows a preset by.
struct MeasuredShape {
  std::string name;     ///< "dsv3", of its option --shape
  std::int64_t tokens;  ///< where the command line does not say
};

struct Preset {
  std::string name;        ///< "qwen3_30b"
  std::string model;       ///< "Qwen/Qwen3-30B-A3B"
  MoEConfig full;          ///< bfloat16
  MoEConfig reduced;       ///< the same but for its widths, and for limits that inputs of unit size reach
  nlohmann::json options;  ///< call options that belong to the model: its gate precision
  std::optional<MeasuredShape> measured;  ///< nothing where its times would say what another's say
};

const std::vector<Preset>& presets();

/// Those that have `measured`.
std::vector<const Preset*> measured_presets();

/// Throws InputError that lists the names.
const Preset& find_preset(std::string_view name);

}  // namespace moeref
