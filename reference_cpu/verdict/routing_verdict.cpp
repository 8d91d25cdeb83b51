#include "reference_cpu/verdict/routing_verdict.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "reference_cpu/components/selection.hpp"

namespace moeref {
namespace {

/// Scores that honest ports may have anywhere within their bounds.
struct Scores {
  std::vector<double> value, bound;

  /// A score with an infinite bound, or NaN, may be anywhere.
  bool anywhere(std::size_t i) const { return std::isnan(value[i]) || !(bound[i] < INFINITY); }
  double low(std::size_t i) const { return anywhere(i) ? -INFINITY : value[i] - bound[i]; }
  double high(std::size_t i) const { return anywhere(i) ? INFINITY : value[i] + bound[i]; }
};

using Members = std::vector<bool>;

/// Whether some scores in the box make `members` the largest: all members at their high end, all others at
/// their low end.
bool explainable(const Scores& s, const Members& members) {
  double weakest = INFINITY, strongest = -INFINITY;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i])
      weakest = std::min(weakest, s.high(i));
    else
      strongest = std::max(strongest, s.low(i));
  }
  return weakest >= strongest;
}

/// Whether all scores in the box make `members` the largest.
bool certain(const Scores& s, const Members& members) {
  if (std::ranges::all_of(members, std::identity{})) return true;
  double weakest = INFINITY, strongest = -INFINITY;
  bool others = false;
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (std::isnan(s.value[i]) || std::isnan(s.bound[i])) return false;  // NaN has no order
    if (members[i]) {
      weakest = std::min(weakest, s.low(i));
    } else {
      others = true;
      strongest = std::max(strongest, s.high(i));
    }
  }
  return !others || weakest > strongest;
}

/// 0 times a score that may be infinite or NaN is 0 in a port that replaces it, NaN in one that multiplies.
Scores discarded(const Scores& s, const Members& groups, bool to_zero) {
  Scores out = s;
  const std::size_t size = s.value.size() / groups.size();
  for (std::size_t i = 0; i < s.value.size(); ++i)
    if (!groups[i / size]) {
      const bool finite = std::isfinite(s.value[i]) && !s.anywhere(i);
      out.value[i] = to_zero ? 0.0 : -INFINITY;
      out.bound[i] = !to_zero || finite ? 0.0 : INFINITY;
    }
  return out;
}

/// Every set of `count` groups that some group scores within the bounds make the largest. Groups that are in
/// or out in any case are fixed first; the rest are few.
std::vector<Members> explainable_groups(const Scores& g, std::int64_t count) {
  const std::size_t n = g.value.size();
  Members fixed(n, false);
  std::vector<std::size_t> open;
  std::int64_t taken = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::int64_t surely_above = 0, maybe_above = 0;
    for (std::size_t j = 0; j < n; ++j) {
      surely_above += j != i && g.low(j) > g.high(i);
      maybe_above += j != i && !(g.high(j) < g.low(i));
    }
    if (maybe_above < count) {
      fixed[i] = true;
      ++taken;
    } else if (surely_above < count) {
      open.push_back(i);
    }
  }
  std::vector<Members> out;
  const auto choose = [&](auto&& self, std::size_t next, std::int64_t left, Members members) -> void {
    if (left == 0) {
      if (explainable(g, members)) out.push_back(std::move(members));
      return;
    }
    if (next == open.size()) return;
    members[open[next]] = true;
    self(self, next + 1, left - 1, members);
    members[open[next]] = false;
    self(self, next + 1, left, std::move(members));
  };
  choose(choose, 0, count - taken, fixed);
  return out;
}

Scores row(const std::vector<double>& value, const std::vector<double>& bound, std::int64_t token,
           std::int64_t width) {
  const auto first = token * width, last = first + width;
  return {{value.begin() + first, value.begin() + last}, {bound.begin() + first, bound.begin() + last}};
}

Members best(const std::vector<double>& value, std::int64_t count) {
  Members out(value.size(), false);
  for (const std::int64_t i : top_k(value, count)) out[static_cast<std::size_t>(i)] = true;
  return out;
}

/// Whether some scores within the bounds, group scores first, lead to `chosen`.
bool leads_to(const RoutingScores& r, const Scores& scores, const Scores& groups, const Members& chosen) {
  if (r.group.empty()) return explainable(scores, chosen);
  return std::ranges::any_of(explainable_groups(groups, r.limited_groups), [&](const Members& kept) {
    return explainable(discarded(scores, kept, r.discarded_groups_are_zero), chosen);
  });
}

Scores without_bounds(Scores s) {
  std::ranges::fill(s.bound, 0.0);
  return s;
}

std::string set_text(const Members& members) {
  std::string out;
  for (std::size_t i = 0; i < members.size(); ++i)
    if (members[i]) out += (out.empty() ? "{" : ", ") + std::to_string(i);
  return out + "}";
}

}  // namespace

SelectionVerdict judge_selection(const RoutingScores& r, std::int64_t token,
                                 std::span<const std::int64_t> ids, std::string_view others) {
  Members chosen(static_cast<std::size_t>(r.experts), false);
  for (const std::int64_t id : ids) {
    if (id < 0 || id >= r.experts)
      return {Selection::invalid, false,
              "expert id " + std::to_string(id) + " is outside [0, " + std::to_string(r.experts) + ")"};
    if (chosen[static_cast<std::size_t>(id)])
      return {Selection::invalid, false, "expert id " + std::to_string(id) + " comes twice"};
    chosen[static_cast<std::size_t>(id)] = true;
  }
  const Scores scores = row(r.score, r.score_bound, token, r.experts);
  const Scores groups = r.group.empty() ? Scores{} : row(r.group, r.group_bound, token, r.groups);

  Scores own = scores;
  bool certified = true;
  if (!r.group.empty()) {
    const Members own_groups = best(groups.value, r.limited_groups);
    certified = certain(groups, own_groups);
    own = discarded(scores, own_groups, r.discarded_groups_are_zero);
  }
  const Members own_set = best(own.value, r.k);
  certified = certified && certain(own, own_set);
  if (chosen == own_set) return {Selection::own, certified, ""};
  if (!certified && leads_to(r, without_bounds(scores), without_bounds(groups), chosen))
    return {Selection::tied, false, ""};
  if (!certified && leads_to(r, scores, groups, chosen)) return {Selection::explainable, false, ""};
  return {Selection::wrong, certified,
          "chose " + set_text(chosen) + " where " + std::string(others) + " " + set_text(own_set) +
              ", and no scores within the bounds explain it"};
}

bool settled_but_for_ties(const RoutingScores& r, std::int64_t token, std::span<const std::int64_t> ids) {
  Members chosen(static_cast<std::size_t>(r.experts), false);
  for (const std::int64_t id : ids) chosen[static_cast<std::size_t>(id)] = true;
  Scores s = row(r.score, r.score_bound, token, r.experts);
  if (!r.group.empty()) {
    const Scores groups = row(r.group, r.group_bound, token, r.groups);
    const Members kept = best(groups.value, r.limited_groups);
    if (!certain(groups, kept)) return false;
    s = discarded(s, kept, r.discarded_groups_are_zero);
  }
  for (std::size_t i = 0; i < chosen.size(); ++i)
    for (std::size_t j = 0; chosen[i] && j < chosen.size(); ++j)
      if (!chosen[j] && !(s.low(i) > s.high(j)) &&
          !(s.value[i] == s.value[j] && !s.anywhere(i) && !s.anywhere(j)))
        return false;
  return true;
}

bool has_nan(const RoutingScores& routing, std::int64_t token) {
  const auto row = routing.score.begin() + token * routing.experts;
  const bool multiplies = !routing.group.empty() && routing.discarded_groups_are_zero;
  return std::any_of(row, row + routing.experts,
                     [&](double score) { return std::isnan(score) || (multiplies && std::isinf(score)); });
}

}  // namespace moeref
