#include "reference_cpu/components/score_quantiles.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "reference_cpu/components/token_scores.hpp"

namespace moeref {
namespace {

/// The number of rank `rank`, from 0, of numbers in descending order. Each bound moves it by no more than the
/// ends of all intervals, ordered likewise, allow.
Real at_rank(const std::vector<Real>& numbers, std::int64_t rank) {
  const auto ranked = [&](auto&& end) {
    std::vector<double> ends;
    // An honest implementation may order an infinity or a NaN anywhere.
    for (const Real a : numbers)
      ends.push_back(std::isfinite(a.value) && std::isfinite(a.error) ? end(a) : end({0.0, INFINITY, {}}));
    std::ranges::nth_element(ends, ends.begin() + rank, std::greater<>{});
    return ends[static_cast<std::size_t>(rank)];
  };
  const double value = ranked([](Real a) { return a.value; }),
               low = ranked([](Real a) { return a.value - a.error; }),
               high = ranked([](Real a) { return a.value + a.error; });
  return {value, std::max(high - value, value - low), numbers.front().held};
}

}  // namespace

std::optional<std::vector<Real>> score_quantiles(const MoEConfig& c, const CallOptions& o,
                                                 const std::vector<Real>& correction, const Bounded& logits,
                                                 const std::vector<bool>& mask, std::int64_t first,
                                                 std::int64_t last) {
  const std::int64_t experts = c.n_routed_experts, k = c.n_activated_experts;
  std::vector<std::vector<Real>> columns(static_cast<std::size_t>(experts));
  for (std::int64_t t = first; t < last; ++t) {
    if (!mask[static_cast<std::size_t>(t)]) continue;
    std::vector<Real> scores = token_scores(c, o, std::nullopt, logits, t).choice, chosen;
    for (std::size_t e = 0; e < scores.size(); ++e) {
      scores[e] = widen(scores[e], kFloat);
      chosen.push_back(scores[e] + correction[e]);
    }
    const Real next = at_rank(chosen, k);
    for (std::size_t e = 0; e < scores.size(); ++e) columns[e].push_back(scores[e] - next);
  }
  const auto tokens = static_cast<std::int64_t>(columns.front().size());
  if (tokens == 0) return std::nullopt;
  std::vector<Real> out;
  for (const std::vector<Real>& column : columns) out.push_back(at_rank(column, tokens * k / experts));
  return out;
}

}  // namespace moeref
