// The activations: their names and how they lay out h. Their formulas are rows of
// reference_cpu/components/activation.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class ActivationKind : std::uint8_t {
  swiglu,
  swigluoai,
  quick_geglu,
  geglu,
  relu2,
  // Beyond the documented system (SPEC 10).
  geglu_erf,
  silu,
  gelu,
  gelu_tanh,
  relu,
  situ
};

/// The config field that holds an activation's limit.
enum class ClampField : std::uint8_t { none, swiglu_limit, activation_limit };

struct ActivationFacts {
  ActivationKind kind;
  std::string_view name;
  ClampField clamp = ClampField::none;
  bool always_clamps = false;  ///< a limit of 0 clamps, too, where others are switched off by it
  bool gated = true;           ///< h holds gate and up, else up alone
  bool interleaved = false;    ///< h = g0 u0 g1 u1 ..., else halves [gate ; up]
  bool in_mlp = false;         ///< the MLP may have it, and so may shared experts
  /// The documented system does not have it: a port is asked for it only if it declares it, by its name.
  bool convention = false;
};

/// One row per activation, in the order of the enum.
inline constexpr auto kActivations = std::to_array<ActivationFacts>({
    {.kind = ActivationKind::swiglu, .name = "swiglu", .clamp = ClampField::swiglu_limit, .in_mlp = true},
    {.kind = ActivationKind::swigluoai, .name = "swigluoai", .clamp = ClampField::activation_limit},
    {.kind = ActivationKind::quick_geglu,
     .name = "quick_geglu",
     .clamp = ClampField::activation_limit,
     .always_clamps = true,
     .interleaved = true},
    {.kind = ActivationKind::geglu, .name = "geglu"},
    {.kind = ActivationKind::relu2, .name = "relu2", .gated = false, .in_mlp = true},
    {.kind = ActivationKind::geglu_erf, .name = "geglu_erf", .convention = true},
    {.kind = ActivationKind::silu, .name = "silu", .gated = false, .convention = true},
    {.kind = ActivationKind::gelu, .name = "gelu", .gated = false, .convention = true},
    {.kind = ActivationKind::gelu_tanh, .name = "gelu_tanh", .gated = false, .convention = true},
    {.kind = ActivationKind::relu, .name = "relu", .gated = false, .convention = true},
    {.kind = ActivationKind::situ, .name = "situ", .in_mlp = true, .convention = true},
});
/// How many of them, from the first on, the documented system has.
inline constexpr std::size_t kDocumentedActivations = 5;
static_assert([] {
  for (std::size_t i = 0; i < kActivations.size(); ++i)
    if (kActivations[i].convention != (i >= kDocumentedActivations)) return false;
  return true;
}());

constexpr const ActivationFacts& facts(ActivationKind activation) {
  return kActivations[static_cast<std::size_t>(activation)];
}

std::string_view name(ActivationKind activation);

}  // namespace moeref
