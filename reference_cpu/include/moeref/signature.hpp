// Which tensors go into a call and come out of it, with dtype and shape: the one table that file checks,
// generators and buffer allocation share.
#pragma once

#include <string>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

struct TensorSpec {
  std::string name;              ///< "inputs/x"
  DType dtype = DType::float32;  ///< what the documented system has there; floating inputs may come in any
                                 ///< floating dtype
  Shape shape;
  bool required = true;
};

struct Signature {
  std::vector<TensorSpec> inputs;   ///< inputs/, params/, and cotangents/ with backward
  std::vector<TensorSpec> outputs;  ///< outputs/, and grads/ with backward; stages are never required
};

/// `tokens` is x's shape without its last axis: {T}, or {B, S} for moe. There are `k` ids per token where a
/// component is given ids. bias_update and init do not use or need all of it. Throws InputError for an
/// impossible config.
Signature signature(Component component, const nlohmann::json& config, const nlohmann::json& options,
                    const Shape& tokens, bool backward);

/// The same, with the token shape read off the call's own tensors.
Signature signature(const Call& call);

/// Throws InputError naming the tensor that is missing, has the wrong shape, has an integer dtype where a
/// floating one belongs or the other way round, is unknown, or holds an expert id outside [-1, E).
void check_inputs(const Call& call);

}  // namespace moeref
