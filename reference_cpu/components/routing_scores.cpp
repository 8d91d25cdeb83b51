#include "reference_cpu/components/routing_scores.hpp"

#include <algorithm>
#include <cmath>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/components/selection.hpp"
#include "reference_cpu/components/sinkhorn.hpp"

namespace moeref {

RoutingScores routing_frame(const MoEConfig& c, std::int64_t tokens) {
  RoutingScores out;
  out.indices = "outputs/indices";
  out.tokens = tokens;
  out.experts = c.n_routed_experts;
  out.k = c.n_activated_experts;
  out.groups = c.grouped() ? c.n_expert_groups : 1;
  out.limited_groups = c.grouped() ? c.n_limited_groups : 1;
  out.discarded_groups_are_zero = c.discards_to_zero();
  out.score.resize(static_cast<std::size_t>(tokens * out.experts));
  out.score_bound.resize(out.score.size());
  if (c.grouped()) out.group.resize(static_cast<std::size_t>(tokens * out.groups));
  out.group_bound.resize(out.group.size());
  return out;
}

void record_scores(RoutingScores& routing, const MoEConfig& c, std::int64_t t, const TokenScores& token) {
  const std::vector<Real> groups = group_scores(token.choice, c);
  const auto put = [](std::vector<double>& value, std::vector<double>& bound, const std::vector<Real>& row,
                      std::int64_t at) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      value[static_cast<std::size_t>(at) + i] = row[i].value;
      bound[static_cast<std::size_t>(at) + i] = row[i].error;
    }
  };
  std::vector<Real> choice = token.choice;
  for (std::int64_t e = c.choosable_experts(); e < c.n_routed_experts; ++e)
    choice[static_cast<std::size_t>(e)] = known(INFINITY, {});
  put(routing.score, routing.score_bound, choice, t * routing.experts);
  put(routing.group, routing.group_bound, groups, t * routing.groups);
}

std::optional<Bounded> balanced_choice(const MoEConfig& c, const CallOptions& o, const Bounded& logits) {
  if (!c.balances_selection(o.training)) return std::nullopt;
  if (!c.maps_logits()) return sinkhorn(c, o.parallel, logits);
  Bounded scored(logits.rows, logits.cols, score_compute_type(o));
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const TokenScores token = token_scores(c, o, std::nullopt, logits, t);
    for (std::int64_t e = 0; e < logits.cols; ++e)
      scored.set(t, e, token.logits[static_cast<std::size_t>(e)]);
  }
  return sinkhorn(c, o.parallel, scored);
}

void take_choice(const std::optional<Bounded>& balanced, std::int64_t t, TokenScores& token) {
  for (std::size_t e = 0; balanced && e < token.choice.size(); ++e)
    token.choice[e] = balanced->at(t, static_cast<std::int64_t>(e));
}

RoutingScores routing_of_logits(const MoEConfig& c, const CallOptions& o,
                                const std::optional<std::vector<Real>>& correction, const Bounded& logits) {
  RoutingScores out = routing_frame(c, logits.rows);
  const std::optional<Bounded> balanced = balanced_choice(c, o, logits);
  parallel_for(logits.rows, [&](std::int64_t t) {
    TokenScores token = token_scores(c, o, correction, logits, t);
    take_choice(balanced, t, token);
    record_scores(out, c, t, token);
  });
  return out;
}

std::optional<RoutingScores> routing_of_scores(const MoEConfig& c,
                                               const std::optional<std::vector<Real>>& correction,
                                               const Bounded& scores) {
  const bool by_logits = facts(c.score_func).selects_by_logits;
  const bool corrected = correction && !by_logits, adds = corrected && !weighs_corrected(c);
  // Before its normalisation the sum may be anything, a negative number too. Where it saturates a score does
  // not tell logits apart.
  if ((corrected && c.normalises_scores()) || (!by_logits && c.selects_logits()) ||
      c.balances_selection(true))
    return std::nullopt;
  RoutingScores out = routing_frame(c, scores.rows);
  parallel_for(scores.rows, [&](std::int64_t t) {
    TokenScores token;
    double largest = 0.0;
    for (std::int64_t i = 0; i < scores.cols; ++i) largest = std::max(largest, scores.at(t, i).value);
    for (std::int64_t i = 0; i < scores.cols; ++i) {
      Real s = scores.at(t, i);
      const double unit = std::max(s.held.unit, precision(DType::float32).unit);
      // Scores that the selection is not made from directly: exp of a shift rounds it and itself
      // (softmax()), and a division by the sum rounds once more.
      if (by_logits && s.value > 0.0)
        s.error += s.value * unit * (std::log(largest / s.value) + 6.0);
      else if (by_logits || c.normalises_scores())
        s.error += 2.0 * unit * std::abs(s.value) + s.held.tiny;
      token.choice.push_back(adds ? s + (*correction)[static_cast<std::size_t>(i)] : s);
    }
    record_scores(out, c, t, token);
  });
  return out;
}

}  // namespace moeref
