// The auxiliary loss of all tokens of a call: one per sequence, their mean, and its gradient (SPEC 3.4, 10).
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/config.hpp"
#include "reference_cpu/components/aux_loss.hpp"

namespace moeref {

/// The mean over sequences, and the terms of each.
struct SequenceLoss {
  Real value;
  std::vector<AuxLossTerms> terms;
};

/// Scores S [T, E] and ids [T, k] of T tokens. Throws InputError where aux_loss_sequences does not divide T.
/// Without sequences the statistics of context-parallel ranks, contiguous parts of the tokens, are added
/// first. `accumulated` [E] are loads of earlier micro-batches, empty without any.
SequenceLoss sequence_loss(const MoEConfig& config, const ParallelOptions& ranks, const Bounded& scores,
                           const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                           const std::vector<std::int64_t>& accumulated);

/// scale d loss / d S_ti [E] of the real tokens of each sequence.
std::vector<std::vector<Real>> sequence_loss_gradients(const std::vector<AuxLossTerms>& terms, Real scale);

/// The sequence that token t of so many is in.
std::size_t sequence_of(std::int64_t t, std::int64_t tokens, std::size_t sequences);

}  // namespace moeref
