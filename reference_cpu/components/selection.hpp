// Which experts a token goes to: groups, then the k best (SPEC 3.1, 3.7).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/components/score.hpp"

namespace moeref {

/// Indices of the k largest, in descending order; the lowest index first among equals; NaN above everything,
/// so that the order is total and no index comes twice.
std::vector<std::int64_t> top_k(std::span<const double> scores, std::int64_t k);

/// The scores of the groups of consecutive experts, and nothing where the rule or the config has no groups.
std::vector<Real> group_scores(std::span<const Real> choice, const MoEConfig& config);

/// Scores after discarded groups are set to 0 or -inf: `kept` has one flag a group.
std::vector<double> discard_groups(std::span<const double> choice, const std::vector<bool>& kept,
                                   bool to_zero);

/// The ids of one token by the rules of the config, from its selection scores q.
std::vector<std::int64_t> select_experts(std::span<const Real> choice, const MoEConfig& config);

}  // namespace moeref
