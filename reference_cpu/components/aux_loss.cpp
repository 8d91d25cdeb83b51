#include "reference_cpu/components/aux_loss.hpp"

#include <algorithm>
#include <numeric>

namespace moeref {

double real_token_count(const std::vector<bool>& mask) {
  return std::max(static_cast<double>(std::ranges::count(mask, true)), 1.0);
}

std::vector<std::int64_t> expert_load(const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                      std::int64_t experts) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts));
  const std::size_t k = mask.empty() ? 0 : ids.size() / mask.size();
  for (std::size_t t = 0; t < mask.size(); ++t) {
    if (!mask[t]) continue;
    for (std::size_t j = 0; j < k; ++j) {
      const std::int64_t id = ids[t * k + j];
      bool counted = id < 0 || id >= experts;  // a null slot
      for (std::size_t earlier = 0; earlier < j; ++earlier) counted = counted || ids[t * k + earlier] == id;
      if (!counted) ++load[static_cast<std::size_t>(id)];
    }
  }
  return load;
}

AuxStatistics aux_statistics(const Bounded& scores, const std::vector<bool>& mask,
                             const std::vector<std::int64_t>& load) {
  AuxStatistics out;
  for (const bool real : mask) out.real_tokens += real;
  out.load = load;
  for (std::int64_t i = 0; i < scores.cols; ++i) {
    Sum sum(kFloat);
    // Scores are multiplied by the mask: one of padding that may be infinite makes the sum's bound infinite.
    for (std::int64_t t = 0; t < scores.rows; ++t)
      sum += store(scores.at(t, i), kFloat) * (mask[static_cast<std::size_t>(t)] ? 1.0 : 0.0);
    out.score_sum.push_back(sum);
  }
  return out;
}

void add(AuxStatistics& sum, const AuxStatistics& rank) {
  sum.real_tokens += rank.real_tokens;
  for (std::size_t i = 0; i < sum.load.size(); ++i) {
    sum.load[i] += rank.load[i];
    sum.score_sum[i] += rank.score_sum[i];
  }
}

namespace {

/// sum_i f_i P_i with f_i = f(load_i).
AuxLoss loss_with(const AuxStatistics& statistics, auto&& f_of) {
  AuxLoss out;
  out.terms.n = std::max<std::int64_t>(statistics.real_tokens, 1);
  const auto n = static_cast<double>(out.terms.n);
  Sum loss(kFloat);
  for (std::size_t i = 0; i < statistics.load.size(); ++i) {
    const Real f = f_of(i, n);
    out.terms.f.push_back(f);
    loss += f * (statistics.score_sum[i].total() / n);
  }
  out.value = loss.total();
  return out;
}

}  // namespace

AuxLoss aux_loss(const AuxStatistics& statistics, std::int64_t k) {
  const auto experts = static_cast<double>(statistics.load.size());
  return loss_with(statistics, [&](std::size_t i, double n) {
    return known(static_cast<double>(statistics.load[i]), kFloat) * experts / (static_cast<double>(k) * n);
  });
}

AuxLoss accumulated_aux_loss(const AuxStatistics& statistics, std::int64_t k,
                             const std::vector<std::int64_t>& accumulated, std::int64_t counted) {
  const auto experts = static_cast<double>(statistics.load.size());
  const std::int64_t sum = std::accumulate(accumulated.begin(), accumulated.end(), std::int64_t{0});
  return loss_with(statistics, [&](std::size_t i, double n) {
    const Real tokens = known(static_cast<double>(sum), kFloat) / static_cast<double>(counted) + n;
    const Real load = known(static_cast<double>(statistics.load[i] + accumulated[i]), kFloat);
    return load * experts / (tokens * static_cast<double>(k));
  });
}

std::vector<Real> aux_loss_gradient(const AuxLossTerms& terms, Real scale) {
  std::vector<Real> out;
  for (const Real f : terms.f) out.push_back(f * scale / static_cast<double>(terms.n));
  return out;
}

}  // namespace moeref
