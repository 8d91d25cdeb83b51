#include "moeref/implementation.hpp"

#include "moeref/error.hpp"

namespace moeref {
namespace {

constexpr std::array<std::string_view, kComponents.size()> kNames{
    "gate", "aux_loss", "bias_update", "fake_balanced_gate", "mlp", "experts", "moe", "init", "metrics"};

}  // namespace

std::string_view name(Component component) { return kNames[static_cast<std::size_t>(component)]; }

Component parse_component(std::string_view text) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == text) return static_cast<Component>(i);
  std::string want;
  for (const auto candidate : kNames) want += " " + std::string(candidate);
  throw InputError("unknown component '" + std::string(text) + "': want one of" + want);
}

}  // namespace moeref
