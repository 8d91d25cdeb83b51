// What the selection of experts is made from, with its bounds: by this a candidate's choice is judged.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "moeref/config.hpp"
#include "moeref/evaluation.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"
#include "reference_cpu/components/token_scores.hpp"

namespace moeref {

/// Room for the scores of so many tokens.
RoutingScores routing_frame(const MoEConfig& config, std::int64_t tokens);
/// Puts those of token t there; infinity for experts that every token has.
void record_scores(RoutingScores& routing, const MoEConfig& config, std::int64_t t, const TokenScores& token);

/// q [T, E] of all tokens where the config balances them, from the logits z [T, E]; else nothing.
std::optional<Bounded> balanced_choice(const MoEConfig& config, const CallOptions& options,
                                       const Bounded& logits);
/// One token's, as it is ordered, in place of what its own scores give.
void take_choice(const std::optional<Bounded>& balanced, std::int64_t t, TokenScores& token);

/// What the selection is made from where the logits z [T, E] are given.
RoutingScores routing_of_logits(const MoEConfig& config, const CallOptions& options,
                                const std::optional<std::vector<Real>>& correction, const Bounded& logits);

/// The same where the scores S [T, E] are given as the auxiliary loss sees them. Nothing where the selection
/// does not follow from them: a correction bias comes before the normalisation that S is after, or logits are
/// selected by.
std::optional<RoutingScores> routing_of_scores(const MoEConfig& config,
                                               const std::optional<std::vector<Real>>& correction,
                                               const Bounded& scores);

}  // namespace moeref
