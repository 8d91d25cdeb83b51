// Experts of limited capacity: which slots they take, and which are dropped (SPEC 10).
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// The ids [T, k] that experts get: `ids`, with the id of a null slot where one is dropped. Each rank drops
/// among its own tokens. Slots of masked tokens are as they are, and take no room.
/// `weights` [T, k], as they are before any slot is dropped, order slots under CapacityOrder::weight, equal
/// ones by token. There `shown` [T, k], a candidate's own answer, is the result where some weights within the
/// bounds give it; null: none is shown.
std::vector<std::int64_t> dispatched_ids(const MoEConfig& config, const ParallelOptions& ranks,
                                         const std::vector<std::int64_t>& ids, const Bounded& weights,
                                         const std::vector<bool>& mask,
                                         const std::vector<std::int64_t>* shown);

}  // namespace moeref
