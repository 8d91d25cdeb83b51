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

SequenceLoss mean_loss(const std::vector<AuxLoss>& sequences) {
  SequenceLoss out;
  Sum sum(kFloat);
  for (const AuxLoss& loss : sequences) {
    sum += loss.value;
    out.terms.push_back(loss.terms);
  }
  out.value =
      sequences.size() == 1 ? sequences[0].value : sum.total() / static_cast<double>(sequences.size());
  return out;
}

}  // namespace

SequenceLoss sequence_loss(const MoEConfig& c, const ParallelOptions& parallel, const Bounded& scores,
                           const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                           const std::vector<std::int64_t>& accumulated) {
  const std::int64_t k = c.n_activated_experts, ranks = parallel.cp_size, sequences = c.aux_loss_sequences;
  if (sequences > 1 && ranks > 1)
    throw InputError("config field 'aux_loss_sequences' is " + std::to_string(sequences) +
                     ": want 1 where context-parallel ranks share a sequence");
  const auto statistics = [&](std::int64_t first, std::int64_t last) {
    return statistics_of(scores, ids, mask, k, c.aux_loss_counted(), first, last);
  };
  if (sequences > 1) {
    const auto offsets = sequence_offsets(sequences, scores.rows);
    std::vector<AuxLoss> losses;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
      losses.push_back(aux_loss(statistics(offsets[s], offsets[s + 1]), c.aux_loss_slots()));
    return mean_loss(losses);
  }
  const auto offsets = rank_offsets(ranks, parallel.tokens_per_rank, scores.rows);
  AuxStatistics sum = statistics(offsets[0], offsets[1]);
  for (std::size_t r = 1; r + 1 < offsets.size(); ++r) add(sum, statistics(offsets[r], offsets[r + 1]));
  return mean_loss({accumulated.empty()
                        ? aux_loss(sum, c.aux_loss_slots())
                        : accumulated_aux_loss(sum, c.aux_loss_slots(), accumulated, c.aux_loss_counted())});
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

}  // namespace moeref
