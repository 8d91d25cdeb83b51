// The one interface of everything that computes: the CPU reference, the CUDA implementation and every port.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "moeref/component.hpp"
#include "moeref/tensor.hpp"

namespace moeref {

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

/// Computes calls. An implementation is called from one thread at a time.
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
