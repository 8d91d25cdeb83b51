// The activations: their names and how they lay out h. Their formulas are rows of
// reference_cpu/components/activation.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class ActivationKind : std::uint8_t { swiglu, swigluoai, quick_geglu, geglu, relu2 };

struct ActivationFacts {
  ActivationKind kind;
  std::string_view name;
  bool gated;             ///< h holds gate and up, else up alone
  bool interleaved;       ///< h = g0 u0 g1 u1 ..., else halves [gate ; up]
  bool activation_limit;  ///< clamps at activation_limit, else at swiglu_limit if at all
  bool always_clamps;     ///< at a limit of 0, too, which switches the others off
  bool in_mlp;            ///< the documented MLP has it, and so have shared experts
};

/// One row per activation, in the order of the enum.
inline constexpr auto kActivations = std::to_array<ActivationFacts>({
    {ActivationKind::swiglu, "swiglu", true, false, false, false, true},
    {ActivationKind::swigluoai, "swigluoai", true, false, true, false, false},
    {ActivationKind::quick_geglu, "quick_geglu", true, true, true, true, false},
    {ActivationKind::geglu, "geglu", true, false, false, false, false},
    {ActivationKind::relu2, "relu2", false, false, false, false, true},
});

constexpr const ActivationFacts& facts(ActivationKind activation) {
  return kActivations[static_cast<std::size_t>(activation)];
}

std::string_view name(ActivationKind activation);

}  // namespace moeref
