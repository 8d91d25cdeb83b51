// The components of the documented system: what a call can ask for.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class Component : std::uint8_t {
  gate,
  aux_loss,
  bias_update,
  fake_balanced_gate,
  mlp,
  experts,
  moe,
  init,
  metrics,
};

struct ComponentFacts {
  Component kind;
  std::string_view name;
  bool has_backward;
  std::string_view token_input;  ///< the input whose axes but the last are the tokens; empty if there is none
};

/// One row per component, in the order of the enum.
inline constexpr auto kComponentFacts = std::to_array<ComponentFacts>({
    {Component::gate, "gate", true, "inputs/x"},
    {Component::aux_loss, "aux_loss", true, "inputs/original_scores"},
    {Component::bias_update, "bias_update", false, "inputs/x_0_0"},
    {Component::fake_balanced_gate, "fake_balanced_gate", false, "inputs/x"},
    {Component::mlp, "mlp", true, "inputs/x"},
    {Component::experts, "experts", true, "inputs/x"},
    {Component::moe, "moe", true, "inputs/x"},
    {Component::init, "init", false, ""},
    {Component::metrics, "metrics", false, "inputs/expert_load"},
});

constexpr const ComponentFacts& facts(Component component) {
  return kComponentFacts[static_cast<std::size_t>(component)];
}

/// Whether tokens go through routed experts in it.
constexpr bool has_routed_experts(Component component) {
  return component == Component::experts || component == Component::moe;
}

inline constexpr auto kComponents = [] {
  std::array<Component, kComponentFacts.size()> out{};
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = kComponentFacts[i].kind;
  return out;
}();

std::string_view name(Component component);

/// Throws InputError naming the text.
Component parse_component(std::string_view text);

}  // namespace moeref
