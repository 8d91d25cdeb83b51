// Expert load and the auxiliary load-balancing loss (SPEC 3.4).
#pragma once

#include <cstdint>
#include <vector>

#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {

/// n of the losses: the number of real tokens, 1 where there are none.
double real_token_count(const std::vector<bool>& mask);

/// load_i = number of real tokens whose ids [k] contain i: an id that a token has twice counts once, that of
/// a null slot nowhere. ids [T, k].
std::vector<std::int64_t> expert_load(const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                      std::int64_t experts);

/// Statistics of one rank's tokens. Under context parallelism they are added over the ranks before the loss
/// is computed.
struct AuxStatistics {
  std::int64_t real_tokens = 0;
  std::vector<std::int64_t> load;  ///< [E]
  std::vector<Sum> score_sum;      ///< sum_t m_t S_ti [E], in fp32
};

/// S [T, E].
AuxStatistics aux_statistics(const Bounded& scores, const std::vector<bool>& mask,
                             const std::vector<std::int64_t>& load);
void add(AuxStatistics& sum, const AuxStatistics& rank);

/// n = max(number of real tokens, 1) and f_i, load_i E / (k n) where nothing was accumulated: constants of
/// the gradient.
struct AuxLossTerms {
  std::int64_t n = 1;
  std::vector<Real> f;
};

struct AuxLoss {
  Real value;  ///< sum_i f_i P_i with P_i = score_sum_i / n
  AuxLossTerms terms;
};
AuxLoss aux_loss(const AuxStatistics& statistics, std::int64_t k);

/// With loads A [E] of earlier micro-batches, in which each token has as many slots as `counted`:
/// f_i = (A_i + load_i) E / (k N), N = n + sum_j A_j / counted.
AuxLoss accumulated_aux_loss(const AuxStatistics& statistics, std::int64_t k,
                             const std::vector<std::int64_t>& accumulated, std::int64_t counted);

/// d aux / d S_ti = scale f_i m_t / n, [E] for a real token.
std::vector<Real> aux_loss_gradient(const AuxLossTerms& terms, Real scale);

}  // namespace moeref
