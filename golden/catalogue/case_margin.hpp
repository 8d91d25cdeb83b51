// Redraws tokens whose experts rounding could change (VERDICTS.md, Routing).
#pragma once

#include "golden/catalogue/case_builder.hpp"
#include "moeref/reference.hpp"

namespace moeref {

/// The tokens of one routing decision whose selection, or the choice of their groups, is not decided by
/// `margin` times the bounds on both sides: min over the selected of (s - margin e) <= max over the others of
/// (s + margin e). Tokens with scores that are not finite are none of them.
std::vector<std::int64_t> close_tokens(const RoutingScores& routing, double margin);

/// Draws the x of such tokens again until there is none left. Nothing to do for components that do not route,
/// for replayed ids and for a margin of 0. Throws InputError naming the token that could not be drawn.
void ensure_margin(const CaseSpec& spec, Call& call);

}  // namespace moeref
