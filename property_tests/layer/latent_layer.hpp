// A layer with latent_norm once more, in plain double arithmetic around the reference's experts: what
// properties expect and mutants change.
#pragma once

#include "moeref/implementation.hpp"

namespace moeref {

/// Whether it is a layer with latent_norm whose balanced gate deals experts and that has no shared ones.
bool is_latent_layer(const Call& call);

/// What an implementation may have wrong in the norm of its latent rows.
struct LatentNormRule {
  bool subtracts_mean = false;     ///< as a layer norm does
  bool root_is_constant = false;   ///< nothing reaches a row through its root
  bool weight_sees_given = false;  ///< the weight's gradient is made of rows before they are normalised
};

/// outputs/y, and with cotangents the gradients of x and of every parameter, in float64.
NamedTensors latent_layer(const Call& call, const LatentNormRule& rule = {});

}  // namespace moeref
