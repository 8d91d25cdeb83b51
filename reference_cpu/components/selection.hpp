// Which experts a token goes to: groups, then the k best (SPEC 3.1, 3.7).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/components/score.hpp"

namespace moeref {

/// The indices of the k largest in descending order; of equal ones the lowest index comes first. NaN is above
/// every number, so that the order is total and no index comes twice.
std::vector<std::int64_t> top_k(std::span<const double> scores, std::int64_t k);

/// The scores of the groups of consecutive experts; empty where the rule or the config has no groups.
std::vector<Real> group_scores(std::span<const Real> choice, const MoEConfig& config);

/// Scores after discarded groups are set to 0 or -inf: `kept` has one flag per group.
std::vector<double> discard_groups(std::span<const double> choice, const std::vector<bool>& kept,
                                   bool to_zero);

/// The ids that the rules of the config select for one token from its selection scores q.
std::vector<std::int64_t> select_experts(std::span<const Real> choice, const MoEConfig& config);

}  // namespace moeref
