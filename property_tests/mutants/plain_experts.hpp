// Experts and MLPs once more, in plain double arithmetic, with parts that a mutant may replace.
#pragma once

#include <cstdint>
#include <utility>

#include "moeref/config.hpp"
#include "moeref/implementation.hpp"

namespace moeref {

/// The activation as SPEC 5 has it: of gate and up, or of up alone where there is no gate.
double activation_value(const MoEConfig& config, double gate, double up);
/// Its derivatives by gate and by up.
std::pair<double, double> activation_slope(const MoEConfig& config, double gate, double up);
double plain_sigmoid(double z);

struct ExpertsParts {
  double (*value)(const MoEConfig&, double gate, double up) = activation_value;
  std::pair<double, double> (*slope)(const MoEConfig&, double gate, double up) = activation_slope;
  /// A product added to a forward sum of the call's type.
  double (*add)(DType type, double sum, double product) = nullptr;
  bool weight_on_input = false;  ///< the routing weight multiplies x in place of the activation
};

/// Outputs and gradients of an experts or MLP call.
NamedTensors plain_experts(const Call& call, const ExpertsParts& parts);

/// The sound results plus what the parts change in the plain ones; a call of another component as it is.
NamedTensors with_parts(Implementation& sound, const Call& call, const ExpertsParts& parts);

}  // namespace moeref
