// Weights quantised as public implementations do it, in float32: the scale of a block by its largest weight,
// codes to nearest even, what lies beyond the largest code becomes it. Weights are rounded to float32 first.
#pragma once

#include <string>

#include "moeref/weight_format.hpp"

namespace moeref {

/// The tensors `name` + suffix of weights [E, K, N]. With the largest absolute value m of a block, all in
/// float32:
///   fp8_e4m3_block128  scale m / 448; code of w / scale (compressed-tensors, strategy block; DeepSeek-V3)
///   mxfp8, mxfp4       scale 2^(floor(log2 m) - 8 or 2), from 2^-127 to 2^127 (OCP Microscaling v1.0, 6.3)
///   nvfp4              expert scale s = (largest of the expert) / 2688; scale m / 6 / s within [2^-6, 448],
///   to
///                      nearest even in e4m3; code of w ((1 / s) / scale) (torchao, nvfp4_quantize)
///   int4_group*        scale m / 7.5 in bfloat16; code of w / scale within [-8, 7] (compressed-tensors)
/// A scale of 0 becomes the epsilon of its type where it is float32 or bfloat16 (compressed-tensors); an
/// expert of zeros, or of numbers below 2^-116, has the expert scale 1. Throws InputError for weights that
/// are not finite in float32, and where a block may not be cut short.
NamedTensors quantize(WeightFormat format, const Tensor& weights, const std::string& name);

}  // namespace moeref
