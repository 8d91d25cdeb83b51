// Which buffers a call of a port has: its inputs, and the outputs and stages to be written.
#pragma once

#include <string>
#include <vector>

#include "moeref/signature.hpp"

namespace moeref {

/// The stages that the reference exposes for such a call; a port may expose fewer: "stages/logits" [T, E],
/// ... in float32, or float64 in float64 calls and, for those of a gate, with a gate precision of float64.
/// Rows of masked tokens and of slots without an expert are 0 in those of the experts.
std::vector<TensorSpec> stages(const Call& call);

/// The outputs of the call's signature and those of its stages that are named in `exposed` ("logits",
/// "scores", ...). Those which are not required may be left out by a port.
std::vector<TensorSpec> port_outputs(const Call& call, const std::vector<std::string>& exposed);

}  // namespace moeref
