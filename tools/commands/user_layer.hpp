// Cases for one MoE layer: that of a preset, or a user's own from a JSON file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "golden/catalogue/case_builder.hpp"

namespace moeref {

/// What the command line says beside the layer itself.
struct LayerRequest {
  std::vector<Component> components;  ///< empty: the whole layer, moe
  std::optional<std::int64_t> tokens;
  std::optional<DType> dtype;
  std::optional<std::uint64_t> seed;
  std::int64_t default_tokens = 64;  ///< where neither the command line nor the file says
};

/// Forward and backward, where the component has one, of a published model's layer at its reduced or real
/// width.
std::vector<CaseSpec> preset_layer(const std::string& preset, bool full_width, const LayerRequest& request);

/// `file` holds MoEConfig's fields, or {"config": {...}} with any of component, call, tokens and the other
/// fields of a recipe's case beside it. The command line wins. Throws InputError that begins with the file
/// and names the field.
std::vector<CaseSpec> user_layer(const std::filesystem::path& file, const LayerRequest& request);

}  // namespace moeref
