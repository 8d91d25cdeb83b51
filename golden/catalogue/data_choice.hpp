// How the values of a case's tensors are chosen: a few words of JSON in a recipe, {"kind": "normal", "scale":
// 0.5}.
//
// Every element is a pure function of (seed, tensor name, coordinates), so that a case with fewer tokens,
// experts or a smaller width keeps the values of the coordinates that it still has. Only ids, and rows that
// are normalised to sum to 1, depend on the extents too.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moeref/tensor.hpp"

namespace moeref {

/// What a tensor is to its component; each role has its own choice in a recipe.
enum class DataRole : std::uint8_t {
  x,                ///< inputs/x, inputs/x_S_M
  mask,             ///< inputs/token_mask and inputs/padding_mask
  gate_weight,      ///< the router's matrix
  router_bias,      ///< the bias of its logits
  correction_bias,  ///< e_score_correction_bias
  params,           ///< every other matrix
  biases,           ///< every other bias
  gate_bias,  ///< that part of a bias which feeds the gate of a gated activation; as `biases` where it is not
              ///< named
  indices,    ///< given expert ids
  replay,     ///< replayed expert ids; absent where it is not named
  weights,    ///< given routing weights
  scores,     ///< given scores of the auxiliary loss
  cotangents,  ///< d loss / d output
  loads,       ///< given expert loads
};

std::string_view name(DataRole role);

struct DataChoice {
  std::string kind;
  std::map<std::string, double, std::less<>> parameters;

  /// The parameter, or its default from the table of kinds.
  double operator[](std::string_view parameter) const;

  friend bool operator==(const DataChoice&, const DataChoice&) = default;
};

using DataChoices = std::map<DataRole, DataChoice>;

/// The choice for a role: what was said, or the role's default.
DataChoice choice_of(const DataChoices& choices, DataRole role);

/// {"x": {"kind": "normal", "scale": 2}, "mask": "all"}; a kind alone may stand for an object. Throws
/// InputError naming the role, kind or parameter that is unknown, or a parameter outside its range, and what
/// would be right.
DataChoices parse_data_choices(const nlohmann::json& json);
nlohmann::json to_json(const DataChoices& choices);

/// Where the values of a tensor come from. `attempt` > 0 draws other ones in its place (redrawn tokens).
struct DataStream {
  std::uint64_t seed = 1;
  std::string tensor;  ///< "inputs/x"
  int attempt = 0;
};

/// A floating tensor. `fan_in` is the length of the inner products that the tensor enters.
Tensor draw_reals(const DataChoice& choice, const DataStream& stream, DType dtype, const Shape& shape,
                  std::int64_t fan_in);

/// One row (all but the last axis are rows) of such a tensor, drawn into its place.
void redraw_row(const DataChoice& choice, const DataStream& stream, std::int64_t fan_in, std::int64_t row,
                Tensor& out);

/// Which tokens are masked, for tokens of shape [T] or [B, S]. Not for the kind "absent".
std::vector<bool> draw_masked_tokens(const DataChoice& choice, const DataStream& stream, const Shape& tokens);

/// Expert ids [T, k] in [-1, experts). Throws InputError where the kind cannot fill k slots.
Tensor draw_ids(const DataChoice& choice, const DataStream& stream, std::int64_t tokens, std::int64_t k,
                std::int64_t experts);

/// Loads [layers, experts].
Tensor draw_loads(const DataChoice& choice, const DataStream& stream, const Shape& shape);

}  // namespace moeref
