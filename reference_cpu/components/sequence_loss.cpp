#include "reference_cpu/components/sequence_loss.hpp"

#include <string>

#include "moeref/error.hpp"
#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

/// Statistics of the auxiliary loss of tokens [first, last), by the first `counted` of their k ids.
AuxStatistics statistics_of(const Bounded& scores, const std::vector<std::int64_t>& ids,
                            const std::vector<bool>& mask, std::int64_t k, std::int64_t counted,
                            std::int64_t first, std::int64_t last) {
  const std::vector<bool> own_mask(mask.begin() + first, mask.begin() + last);
  std::vector<std::int64_t> own_ids;
  for (std::int64_t t = first; t < last; ++t)
    own_ids.insert(own_ids.end(), ids.begin() + t * k, ids.begin() + t * k + counted);
  return aux_statistics(rows_of(scores, first, last), own_mask, expert_load(own_ids, own_mask, scores.cols));
}

/// The first token of each of `sequences` sequences of equal length, and the number of tokens.
std::vector<std::int64_t> sequence_offsets(std::int64_t sequences, std::int64_t tokens) {
  if (tokens % sequences != 0)
    throw InputError("config field 'aux_loss_sequences' is " + std::to_string(sequences) +
                     ": want a divisor of the number of tokens = " + std::to_string(tokens));
  std::vector<std::int64_t> out;
  for (std::int64_t s = 0; s <= sequences; ++s) out.push_back(s * (tokens / sequences));
  return out;
}

/// Of tokens that are one sequence.
SequenceLoss whole_loss(const MoEConfig& c, const AuxStatistics& all,
                        const std::vector<std::int64_t>& accumulated) {
  const AuxLoss loss = accumulated.empty()
                           ? aux_loss(all, c.aux_loss_slots())
                           : accumulated_aux_loss(all, c.aux_loss_slots(), accumulated, c.aux_loss_counted());
  return {loss.value, {loss.terms}};
}

SequenceLoss mean_loss(const std::vector<AuxLoss>& sequences) {
  SequenceLoss out;
  Sum sum(kFloat);
  for (const AuxLoss& loss : sequences) {
    sum += loss.value;
    out.terms.push_back(loss.terms);
  }
  out.value = sum.total() / static_cast<double>(sequences.size());
  return out;
}

/// Statistics of the call's tokens as one sequence: those of contiguous parts of the tokens, added up.
AuxStatistics statistics_of_ranks(const MoEConfig& c, const ParallelOptions& parallel, const Bounded& scores,
                                  const std::vector<std::int64_t>& ids, const std::vector<bool>& mask) {
  const auto offsets = rank_offsets(parallel.cp_size, parallel.tokens_per_rank, scores.rows);
  const auto statistics = [&](std::size_t rank) {
    return statistics_of(scores, ids, mask, c.n_activated_experts, c.aux_loss_counted(), offsets[rank],
                         offsets[rank + 1]);
  };
  AuxStatistics sum = statistics(0);
  for (std::size_t r = 1; r + 1 < offsets.size(); ++r) add(sum, statistics(r));
  return sum;
}

}  // namespace

SequenceLoss sequence_loss(const MoEConfig& c, const ParallelOptions& parallel, const Bounded& scores,
                           const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                           const std::vector<std::int64_t>& accumulated) {
  const std::int64_t k = c.n_activated_experts, ranks = parallel.cp_size, sequences = c.aux_loss_sequences;
  if (sequences > 1 && ranks > 1)
    throw InputError("config field 'aux_loss_sequences' is " + std::to_string(sequences) +
                     ": want 1 where context-parallel ranks share a sequence");
  if (sequences > 1) {
    const auto offsets = sequence_offsets(sequences, scores.rows);
    std::vector<AuxLoss> losses;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
      losses.push_back(
          aux_loss(statistics_of(scores, ids, mask, k, c.aux_loss_counted(), offsets[s], offsets[s + 1]),
                   c.aux_loss_slots()));
    return mean_loss(losses);
  }
  return whole_loss(c, statistics_of_ranks(c, parallel, scores, ids, mask), accumulated);
}

GateLosses gate_losses(const MoEConfig& c, const ParallelOptions& parallel, const Bounded& scores,
                       const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                       const std::vector<std::int64_t>& accumulated) {
  GateLosses out;
  if (c.aux_loss_coeff > 0.0)
    out.aux = sequence_loss(c, parallel, scores, ids, mask,
                            c.aux_loss_accumulated ? accumulated : std::vector<std::int64_t>{});
  if (c.batch_loss_coeff == 0.0 && c.global_loss_coeff == 0.0) return out;
  const AuxStatistics all = statistics_of_ranks(c, parallel, scores, ids, mask);
  if (c.batch_loss_coeff > 0.0) out.batch = whole_loss(c, all, {});
  if (c.global_loss_coeff > 0.0) out.global = whole_loss(c, all, accumulated);
  return out;
}

std::vector<std::vector<Real>> sequence_loss_gradients(const std::vector<AuxLossTerms>& terms, Real scale) {
  const auto sequences = static_cast<double>(terms.size());
  std::vector<std::vector<Real>> out;
  for (const AuxLossTerms& of_sequence : terms)
    out.push_back(aux_loss_gradient(of_sequence, sequences > 1.0 ? scale / sequences : scale));
  return out;
}

std::size_t sequence_of(std::int64_t t, std::int64_t tokens, std::size_t sequences) {
  return static_cast<std::size_t>(t * static_cast<std::int64_t>(sequences) / tokens);
}

ScoreGradients::ScoreGradients(const MoEConfig& c, const GateLosses& losses, Real scale) {
  const auto add = [&](const std::optional<SequenceLoss>& loss, double coefficient) {
    if (loss) losses_.push_back(sequence_loss_gradients(loss->terms, scale * coefficient));
  };
  add(losses.aux, c.aux_loss_coeff);
  add(losses.batch, c.batch_loss_coeff);
  add(losses.global, c.global_loss_coeff);
}

std::vector<Real> ScoreGradients::of_token(std::int64_t t, std::int64_t tokens, Precision scores) const {
  std::vector<Sum> sums(losses_.at(0).at(0).size(), Sum(scores));
  for (const auto& sequences : losses_) {
    const std::vector<Real>& own = sequences[sequence_of(t, tokens, sequences.size())];
    for (std::size_t i = 0; i < own.size(); ++i) sums[i] += store(own[i], scores);
  }
  std::vector<Real> out;
  for (const Sum& sum : sums) out.push_back(sum.total());
  return out;
}

}  // namespace moeref
