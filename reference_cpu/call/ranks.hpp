// Which tokens and which experts each rank of a call on several ranks has (SPEC 8).
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/config.hpp"

namespace moeref {

/// One rank's part of the layer: experts [first, first + count).
struct ExpertRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Token offsets of `ranks` ranks, ranks + 1 numbers from 0 to `tokens`: by `tokens_per_rank`, or as even as
/// possible where it is empty. Throws InputError if the counts do not sum to `tokens`.
std::vector<std::int64_t> rank_offsets(std::int64_t ranks, const std::vector<std::int64_t>& tokens_per_rank,
                                       std::int64_t tokens);

/// The experts of rank r of n, in order. Throws InputError if n does not divide E.
ExpertRange rank_experts(const MoEConfig& config, std::int64_t rank, std::int64_t ranks);

}  // namespace moeref
