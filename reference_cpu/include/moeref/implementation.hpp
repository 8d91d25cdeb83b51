// The one interface of everything that computes: the CPU reference, the CUDA implementation and every port.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "moeref/tensor.hpp"

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
inline constexpr std::array<Component, 9> kComponents{
    Component::gate,   Component::aux_loss, Component::bias_update, Component::fake_balanced_gate,
    Component::mlp,    Component::experts,  Component::moe,         Component::init,
    Component::metrics};

std::string_view name(Component component);

/// Throws InputError naming the text.
Component parse_component(std::string_view text);

/// One call of one component: what a golden file's attributes and input groups hold, and what the port ABI
/// carries.
struct Call {
  Component component = Component::gate;
  nlohmann::json config;   ///< MoEConfig's fields, or MLPConfig's for mlp
  nlohmann::json options;  ///< CallOptions' fields
  /// "inputs/...", "params/...", "cotangents/...". With "inputs/replay_indices" (gate, moe; "_S_M" behind it
  /// in bias_update) the expert ids are given and not selected (routing replay).
  NamedTensors tensors;
  bool backward = false;  ///< gradients are wanted too
};

/// Whatever computes. Implementations may be called from one thread at a time.
class Implementation {
 public:
  virtual ~Implementation() = default;

  /// "cpu", "cuda", or what a port calls itself.
  virtual std::string name() const = 0;

  /// Nothing if it computes such calls, else the reason why not (declared, counted, never a pass).
  virtual std::optional<std::string> unsupported(const Call& call) const = 0;

  /// "outputs/...", "grads/..." and, where exposed, "stages/...", in any floating dtype. Throws InputError
  /// for calls that no implementation could compute.
  virtual NamedTensors run(const Call& call) = 0;
};

}  // namespace moeref
