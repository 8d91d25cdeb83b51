#include "reference_cpu/components/sinkhorn.hpp"

#include <cmath>
#include <vector>

#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

constexpr double kGuard = 1e-8;
// Without a stop until then q is open; and rounds past the stop, which change hardly anything more.
constexpr int kMostRounds = 1000, kMostFurtherRounds = 32;

struct Factors {
  std::vector<Real> tokens, experts;
};

/// 1 / n / (sum + eps).
Real evened(const Sum& sum, std::size_t n) {
  return constant(1.0 / static_cast<double>(n), kFloat) / (sum.total() + kGuard);
}

/// One round: the tokens' factors from the experts', then the experts' from these.
Factors next_round(const Bounded& grown, const std::vector<Real>& experts) {
  Factors out;
  for (std::int64_t t = 0; t < grown.rows; ++t) {
    Sum sum(kFloat);
    for (std::int64_t e = 0; e < grown.cols; ++e)
      sum += experts[static_cast<std::size_t>(e)] * grown.at(t, e);
    out.tokens.push_back(evened(sum, static_cast<std::size_t>(grown.rows)));
  }
  for (std::int64_t e = 0; e < grown.cols; ++e) {
    Sum sum(kFloat);
    for (std::int64_t t = 0; t < grown.rows; ++t)
      sum += out.tokens[static_cast<std::size_t>(t)] * grown.at(t, e);
    out.experts.push_back(evened(sum, experts.size()));
  }
  return out;
}

Real mean_change(const std::vector<Real>& before, const std::vector<Real>& after) {
  Sum sum(kFloat);
  for (std::size_t e = 0; e < after.size(); ++e) {
    Real change = before[e] - after[e];
    change.value = std::abs(change.value);
    sum += change;
  }
  return sum.total() / static_cast<double>(after.size());
}

/// exp(z) of tokens [first, last) balanced among themselves, into q.
void balance(const MoEConfig& c, const Bounded& logits, std::int64_t first, std::int64_t last, Bounded& q) {
  Bounded grown(last - first, logits.cols, DType::float32);
  for (std::int64_t t = first; t < last; ++t)
    for (std::int64_t e = 0; e < logits.cols; ++e)
      grown.set(t - first, e, exp(store(logits.at(t, e), kFloat)));
  const auto put = [&](const Factors& f, bool first_time) {
    for (std::int64_t t = first; t < last; ++t)
      for (std::int64_t e = 0; e < q.cols; ++e) {
        const Real a = f.experts[static_cast<std::size_t>(e)] * grown.at(t - first, e) *
                       f.tokens[static_cast<std::size_t>(t - first)];
        Real held = q.at(t, e);
        if (first_time) held = a;
        held.error = std::max(held.error, std::abs(a.value - held.value) + a.error);
        if (std::isnan(held.error)) held.error = INFINITY;
        q.set(t, e, held);
      }
  };
  for (std::int64_t t = first; t < last; ++t)
    for (std::int64_t e = 0; e < q.cols; ++e) q.set(t, e, {0.0, INFINITY, kFloat});
  Factors f{{}, std::vector<Real>(static_cast<std::size_t>(logits.cols), known(1.0, kFloat))};
  std::vector<Factors> before;  // rounds after which an implementation may have stopped already
  for (int round = 0, further = 0; round < kMostRounds && further < kMostFurtherRounds; ++round) {
    Factors next = next_round(grown, f.experts);
    const Real change = mean_change(f.experts, next.experts);
    f = std::move(next);
    if (!(change.error < INFINITY)) return;  // open, and so it stays
    const bool may_go_on = !(change.value + change.error <= c.sinkhorn_tolerance);
    if (further == 0 && change.value > c.sinkhorn_tolerance) {
      if (!(change.value - change.error > c.sinkhorn_tolerance)) before.push_back(f);
      continue;
    }
    put(f, further == 0);
    if (further++ == 0)
      for (const Factors& earlier : before) put(earlier, false);
    if (!may_go_on || std::isnan(change.value)) return;
  }
}

}  // namespace

Bounded sinkhorn(const MoEConfig& c, const ParallelOptions& parallel, const Bounded& logits) {
  Bounded q(logits.rows, logits.cols, DType::float32);
  const auto offsets = rank_offsets(parallel.size(), parallel.tokens_per_rank, logits.rows);
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) balance(c, logits, offsets[r], offsets[r + 1], q);
  return q;
}

}  // namespace moeref
