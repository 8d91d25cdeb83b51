// Calls that are part of another call: their results are elements of the whole call's, to the last rounding,
// and the reference computes them in a small share of the time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

/// The part of a tensor that lies at certain coordinates of each axis.
struct TensorPart {
  Shape whole;  ///< under which the tensor is seen, its size unchanged
  std::vector<std::optional<std::vector<std::int64_t>>> axes;  ///< by axis; nothing = all coordinates

  Shape shape() const;
  std::int64_t size() const { return element_count(shape()); }
  Tensor of(const Tensor& tensor) const;
  /// Row-major index in the whole tensor of element `index` of the part.
  std::int64_t whole_index(std::int64_t index) const;
};

/// A result of the reduced call that is the whole call's.
struct ReducedResult {
  TensorPart in_whole;
  std::int64_t first = 0;  ///< its first element in the reduced call's tensor, where the others follow it
};

struct ReducedCall {
  Call call;
  std::map<std::string, ReducedResult> results;
};

/// gate, mlp, and experts and layers on one rank whose gate is a real one and whose weights are numbers.
bool can_be_reduced(const Call& call);

/// The call on these tokens alone, without an auxiliary loss: their rows of every output and gradient by
/// token.
ReducedCall reduce_to_tokens(const Call& call, std::span<const std::int64_t> tokens);

/// The call with a cotangent at these tokens alone, and without an auxiliary loss. Every parameter's gradient
/// is then that of reduce_to_tokens, and 0 is the gradient of all other tokens.
Call with_cotangent_at(const Call& call, std::span<const std::int64_t> tokens);

/// The call whose token t is token order[t] of this one, in tensors of the same shapes, and without an
/// auxiliary loss. Every row of its results by token is that of reduce_to_tokens.
Call with_copies(const Call& call, std::span<const std::int64_t> order);

/// An MLP with these hidden units alone: their rows and columns of the parameters' gradients.
ReducedCall reduce_mlp_to_units(const Call& call, std::vector<std::int64_t> units);

/// experts or moe, with the tokens of one expert alone, routed by `ids` [T, k], and these hidden units: their
/// gradients of this expert. At least one slot must be the expert's.
ReducedCall reduce_to_expert(const Call& call, const Tensor& ids, std::int64_t expert,
                             std::vector<std::int64_t> units);

/// moe with shared experts: the gradients of these hidden units of their MLP.
ReducedCall reduce_to_shared_units(const Call& call, std::vector<std::int64_t> units);

}  // namespace moeref
