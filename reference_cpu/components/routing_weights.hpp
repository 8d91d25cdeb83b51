// The routing weights of a token: the values of its experts, divided and scaled (SPEC 3.1, 3.2, 10).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/components/token_scores.hpp"

namespace moeref {

/// The slots of a token that have an expert: their places among its k, the experts' ids, and whether the
/// expert takes them.
struct FilledSlots {
  std::vector<std::int64_t> place, id;
  std::vector<bool> kept;
};
/// Replayed ids [T, k] may leave slots without an expert; `dispatched` [T, k], those that experts get, are
/// null where a slot is dropped.
FilledSlots filled_slots(const MoEConfig& config, const std::vector<std::int64_t>& ids,
                         const std::vector<std::int64_t>& dispatched, std::int64_t token);

/// The numbers of a row [E] that belong to these experts.
std::vector<Real> gather(std::span<const Real> row, std::span<const std::int64_t> ids);

/// Whether the score function runs over the logits of the selected experts.
bool scores_after_topk(const MoEConfig& config);

/// The values of the selected experts before normalisation.
std::vector<Real> selected_values(const MoEConfig& config, const CallOptions& options,
                                  const TokenScores& token, const FilledSlots& slots);

/// The weights of the slots, without a scale per expert, as they are before any slot is dropped.
std::vector<Real> weights_before_dropping(const MoEConfig& config, std::span<const Real> values);

/// The same, 0 where a slot is dropped.
std::vector<Real> routing_weights(const MoEConfig& config, std::span<const Real> values,
                                  const FilledSlots& slots);

/// d loss / d values, from those of the weights without a scale per expert.
std::vector<Real> routing_weights_gradient(const MoEConfig& config, std::span<const Real> values,
                                           const FilledSlots& slots, std::span<const Real> cotangent);

}  // namespace moeref
