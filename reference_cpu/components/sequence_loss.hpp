// The auxiliary losses of all tokens of a call (SPEC 3.4, 10): one per sequence, their mean, and its
// gradient; and those of all tokens as one sequence, which may come beside it.
#pragma once

#include <cstdint>
#include <optional>
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

/// The losses of a gate, those with a coefficient above 0, and without it.
struct GateLosses {
  std::optional<SequenceLoss> aux, batch, global;
};

/// Arguments and errors as above; `accumulated` is empty only where no loss adds it.
GateLosses gate_losses(const MoEConfig& config, const ParallelOptions& ranks, const Bounded& scores,
                       const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                       const std::vector<std::int64_t>& accumulated);

/// scale d loss / d S_ti [E] of the real tokens of each sequence.
std::vector<std::vector<Real>> sequence_loss_gradients(const std::vector<AuxLossTerms>& terms, Real scale);

/// The sequence that token t of so many is in.
std::size_t sequence_of(std::int64_t t, std::int64_t tokens, std::size_t sequences);

/// The gradients of several losses by S, each with its coefficient times `scale`.
class ScoreGradients {
 public:
  ScoreGradients(const MoEConfig& config, const GateLosses& losses, Real scale);
  bool empty() const { return losses_.empty(); }
  /// How many losses there are beyond one: so many more terms may meet whatever else reaches S.
  std::int64_t further() const { return losses_.empty() ? 0 : std::ssize(losses_) - 1; }
  /// By S_t [E] of the real token t of so many: each loss's stored in the type of S, in which they add up in
  /// any order.
  std::vector<Real> of_token(std::int64_t t, std::int64_t tokens, Precision scores) const;

 private:
  std::vector<std::vector<std::vector<Real>>> losses_;  ///< of each loss one row per sequence
};

}  // namespace moeref
