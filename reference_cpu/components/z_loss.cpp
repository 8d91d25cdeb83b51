#include "reference_cpu/components/z_loss.hpp"

#include "reference_cpu/components/aux_loss.hpp"
#include "reference_cpu/components/score.hpp"
#include "reference_cpu/components/token_scores.hpp"

namespace moeref {
namespace {

/// The z-loss is computed in float32 at least.
Precision z_loss_precision(const CallOptions& o) { return finer(precision(score_compute_type(o)), kFloat); }

std::vector<Real> logits_of_token(const Bounded& logits, std::int64_t t, Precision held) {
  std::vector<Real> out;
  for (std::int64_t i = 0; i < logits.cols; ++i) out.push_back(widen(logits.at(t, i), held));
  return out;
}

}  // namespace

Real z_loss(const CallOptions& o, const Bounded& logits, const std::vector<bool>& mask) {
  Sum sum(kFloat);
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    if (!mask[static_cast<std::size_t>(t)]) continue;
    const Real lse = log_sum_exp(logits_of_token(logits, t, z_loss_precision(o)), z_loss_precision(o));
    sum += store(lse * lse, kFloat);
  }
  return sum.total() / real_token_count(mask);
}

std::vector<Real> z_loss_gradient(const CallOptions& o, const Bounded& logits, std::int64_t t, double n,
                                  Real scale) {
  const Precision held = z_loss_precision(o);
  const std::vector<Real> z = logits_of_token(logits, t, held);
  const Real by_lse = log_sum_exp(z, held) * 2.0 * scale / n;
  std::vector<Real> out;
  for (const Real s : softmax(z, held)) out.push_back(s * by_lse);
  return out;
}

}  // namespace moeref
