// The CPU reference as an implementation, and what only it can give: every value with its running error
// bound.
#pragma once

#include <optional>
#include <string>

#include "moeref/evaluation.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

/// Computes a call in fp64. Where `routing` holds ids under the names of the call's id outputs
/// ("outputs/indices"), these are used, in their slot order, instead of the reference's own: everything after
/// selection is then judged on the port's own routing. Where `stages` holds stages of a port
/// ("stages/logits", ..., and a layer's "outputs/weights"), what follows them starts from these. Throws
/// InputError for bad inputs (check_inputs).
Evaluation evaluate(const Call& call, const NamedTensors& routing = {}, const NamedTensors& stages = {});

/// `evaluate` behind the common interface; results in float64.
class CpuReference final : public Implementation {
 public:
  std::string name() const override { return "cpu"; }
  std::optional<std::string> unsupported(const Call&) const override { return std::nullopt; }
  NamedTensors run(const Call& call) override;
};

}  // namespace moeref
