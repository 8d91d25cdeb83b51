#include "reference_cpu/components/selection.hpp"

#include <algorithm>
#include <numeric>

#include "reference_cpu/arithmetic/bounded.hpp"

namespace moeref {
namespace {

std::vector<double> values(std::span<const Real> numbers) {
  std::vector<double> out;
  for (const Real a : numbers) out.push_back(a.value);
  return out;
}

bool above(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && !std::isnan(b);
  return a > b;
}

}  // namespace

std::vector<std::int64_t> top_k(std::span<const double> scores, std::int64_t k) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](std::int64_t a, std::int64_t b) {
    const double left = scores[static_cast<std::size_t>(a)], right = scores[static_cast<std::size_t>(b)];
    return above(left, right) || (!above(right, left) && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
  order.resize(static_cast<std::size_t>(k));
  return order;
}

std::vector<Real> group_scores(std::span<const Real> choice, const MoEConfig& c) {
  if (!c.grouped()) return {};
  const std::int64_t summed = c.summed_per_group();
  const auto size = static_cast<std::size_t>(c.n_routed_experts / c.n_expert_groups);
  std::vector<Real> out;
  for (std::size_t g = 0; g < static_cast<std::size_t>(c.n_expert_groups); ++g) {
    const auto group = choice.subspan(g * size, size);
    const auto best = top_k(values(group), summed);
    // The largest of numbers with errors e is within max e of the largest value; a sum of n within n max e.
    double error = 0.0;
    for (const Real a : group) error = std::max(error, a.error);
    const auto number = [&](std::size_t i) {
      Real a = group[static_cast<std::size_t>(best[i])];
      a.error = error;
      return a;
    };
    if (summed <= 2) {
      out.push_back(summed == 1 ? number(0) : number(0) + number(1));
      continue;
    }
    Sum sum(group[0].held);  // more than two are added in any order
    for (std::size_t i = 0; i < best.size(); ++i) sum += number(i);
    out.push_back(sum.total());
  }
  return out;
}

std::vector<double> discard_groups(std::span<const double> choice, const std::vector<bool>& kept,
                                   bool to_zero) {
  const std::size_t size = choice.size() / kept.size();
  std::vector<double> out(choice.begin(), choice.end());
  for (std::size_t i = 0; i < out.size(); ++i)
    if (!kept[i / size]) out[i] = to_zero ? 0.0 : -INFINITY;
  return out;
}

std::vector<std::int64_t> select_experts(std::span<const Real> choice, const MoEConfig& c) {
  std::vector<double> q = values(choice);
  const std::vector<Real> groups = group_scores(choice, c);
  if (!groups.empty()) {
    std::vector<bool> kept(groups.size(), false);
    for (const std::int64_t g : top_k(values(groups), c.n_limited_groups))
      kept[static_cast<std::size_t>(g)] = true;
    q = discard_groups(q, kept, c.discards_to_zero());
  }
  const auto choosable = static_cast<std::size_t>(c.choosable_experts());
  std::vector<std::int64_t> ids =
      top_k(std::span(q).first(choosable), c.n_activated_experts - c.n_always_selected);
  for (std::int64_t e = c.choosable_experts(); e < c.n_routed_experts; ++e) ids.push_back(e);
  return ids;
}

}  // namespace moeref
