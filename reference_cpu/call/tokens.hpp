// The tokens of a call: how many, which are masked, and which of its tensors are by token.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

/// Inputs of gate, mlp, experts and moe whose first axes are the tokens.
inline constexpr std::array<std::string_view, 9> kTokenInputs{
    "inputs/x",       "inputs/router_noise",   "inputs/token_mask", "inputs/padding_mask", "inputs/weights",
    "inputs/indices", "inputs/replay_indices", "cotangents/y",      "cotangents/weights"};

/// Their results whose first axis is the tokens.
inline constexpr std::array<std::string_view, 5> kTokenResults{"outputs/y", "outputs/weights",
                                                               "outputs/indices", "grads/x", "grads/weights"};

/// Rows of the component's token input; 0 where it has none.
std::int64_t token_count(const Call& call);

/// Not masked, in whichever mask the component has.
bool is_live(const Call& call, std::int64_t token);

/// Which tokens are not masked, [T].
std::vector<bool> live_tokens(const Call& call);

}  // namespace moeref
