// The choice of experts of the eager port: the largest numbers, within groups or as Sinkhorn balances them;
// what a capacity drops of it, and the load.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "reference_cpu/tests/eager_gate_parts.hpp"

namespace moeref::eager {
namespace {

/// The k largest in descending order, NaN first, the lowest id among equals.
std::vector<std::int64_t> largest(const std::vector<double>& q, std::int64_t k) {
  std::vector<std::int64_t> ids(q.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int64_t a, std::int64_t b) {
    const double x = q[static_cast<std::size_t>(a)], y = q[static_cast<std::size_t>(b)];
    return std::isnan(x) ? !std::isnan(y) : x > y;
  });
  ids.resize(static_cast<std::size_t>(k));
  return ids;
}

}  // namespace

std::vector<std::int64_t> choose(const MoEConfig& c, const Row& q) {
  std::vector<double> values;
  for (const Num a : q) values.push_back(a.v);
  const bool without = c.score_func == ScoreFunc::softmax || (c.score_func == ScoreFunc::sqrtsoftplus &&
                                                              c.group_score == GroupScore::by_score_func);
  if (c.n_expert_groups == 1 || without) {
    const auto shared = static_cast<std::size_t>(c.n_always_selected);
    values.resize(values.size() - shared);
    auto ids = largest(values, c.n_activated_experts - c.n_always_selected);
    for (std::size_t i = 0; i < shared; ++i) ids.push_back(static_cast<std::int64_t>(values.size() + i));
    return ids;
  }
  const auto size = static_cast<std::size_t>(c.n_routed_experts / c.n_expert_groups);
  std::int64_t summed = c.score_func == ScoreFunc::sigmoid && !c.has_correction_bias() ? 1 : 2;
  if (c.group_score == GroupScore::largest) summed = 1;
  if (c.group_score == GroupScore::top2_sum) summed = 2;
  if (c.group_score == GroupScore::topk_over_g_sum) summed = c.n_activated_experts / c.n_limited_groups;
  bool to_zero = c.score_func != ScoreFunc::sigmoid_with_bias;
  if (c.discarded_groups != DiscardedGroups::by_score_func)
    to_zero = c.discarded_groups == DiscardedGroups::zero;
  std::vector<double> groups;
  for (std::size_t g = 0; g < q.size() / size; ++g) {
    const std::vector<double> members(values.begin() + g * size, values.begin() + (g + 1) * size);
    Num score{0.0, q[0].t};
    for (const std::int64_t i : largest(members, summed))
      score = score + Num{members[static_cast<std::size_t>(i)], q[0].t};
    groups.push_back(score.v);
  }
  const auto kept = largest(groups, c.n_limited_groups);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (std::ranges::find(kept, static_cast<std::int64_t>(i / size)) == kept.end())
      values[i] = to_zero ? values[i] * 0.0 : -INFINITY;
  return largest(values, c.n_activated_experts);
}

void balance(const MoEConfig& c, const std::vector<Row>& logits, std::int64_t first, std::int64_t last,
             Order order, std::vector<Row>& q) {
  const DType f = DType::float32;
  const auto tokens = static_cast<std::size_t>(last - first),
             experts = static_cast<std::size_t>(c.n_routed_experts);
  std::vector<Row> cost(tokens);
  for (std::size_t t = 0; t < tokens; ++t)
    for (const Num z : logits[static_cast<std::size_t>(first) + t])
      cost[t].push_back(apply(cast(z, f), [](auto v) { return std::exp(v); }));
  Row d0(tokens, Num{1.0, f}), d1(experts, Num{1.0, f});
  const auto evened = [&](const Row& terms, std::size_t n) {
    const Num share{round_as(f, 1.0 / static_cast<double>(n)), f};
    return share / (sum(terms, f, order) + 1e-8);
  };
  for (double error = 1e9; tokens > 0 && error > c.sinkhorn_tolerance;) {
    for (std::size_t t = 0; t < tokens; ++t) {
      Row terms;
      for (std::size_t e = 0; e < experts; ++e) terms.push_back(d1[e] * cost[t][e]);
      d0[t] = evened(terms, tokens);
    }
    Row changes;
    for (std::size_t e = 0; e < experts; ++e) {
      Row terms;
      for (std::size_t t = 0; t < tokens; ++t) terms.push_back(d0[t] * cost[t][e]);
      const Num next = evened(terms, experts);
      changes.push_back(apply(d1[e] - next, [](auto v) { return std::abs(v); }));
      d1[e] = next;
    }
    error = (sum(changes, f, order) / static_cast<double>(experts)).v;
  }
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < experts; ++e)
      q[static_cast<std::size_t>(first) + t].push_back(d1[e] * cost[t][e] * d0[t]);
}

void drop(const MoEConfig& c, const GateResult& g, const std::vector<bool>& mask, std::int64_t first,
          std::int64_t last, std::vector<bool>& kept) {
  const std::int64_t k = c.n_activated_experts;
  double capacity = static_cast<double>(c.expert_capacity);
  if (c.expert_capacity == 0) {
    const double tokens = static_cast<double>((last - first) * k);
    capacity = std::max(std::ceil(tokens / static_cast<double>(c.n_routed_experts) * c.capacity_factor),
                        static_cast<double>(c.min_capacity));
  }
  std::vector<std::int64_t> line;
  for (std::int64_t slot = first * k; slot < last * k; ++slot) line.push_back(slot);
  if (c.capacity_order == CapacityOrder::choice) {
    line.clear();
    for (std::int64_t j = 0; j < k; ++j)
      for (std::int64_t t = first; t < last; ++t) line.push_back(t * k + j);
  }
  if (c.capacity_order == CapacityOrder::weight)
    std::ranges::stable_sort(line, [&](std::int64_t a, std::int64_t b) {
      const double x = g.weights.at(a / k, a % k).v, y = g.weights.at(b / k, b % k).v;
      return std::isnan(x) ? !std::isnan(y) : x > y;
    });
  std::vector<double> taken(static_cast<std::size_t>(c.n_routed_experts), 0.0);
  for (const std::int64_t slot : line) {
    const std::int64_t id = g.ids[static_cast<std::size_t>(slot)];
    if (id < 0 || id >= c.n_routed_experts || !mask[static_cast<std::size_t>(slot / k)]) continue;
    double& place = taken[static_cast<std::size_t>(id)];
    if (++place > capacity) kept[static_cast<std::size_t>(slot)] = false;
  }
}

std::vector<std::int64_t> load_of(const std::vector<std::int64_t>& ids, const std::vector<bool>& mask,
                                  std::int64_t k, std::int64_t experts) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < static_cast<std::int64_t>(mask.size()); ++t)
    for (std::int64_t e = 0; e < experts; ++e) {
      const auto first = ids.begin() + t * k;
      if (mask[static_cast<std::size_t>(t)] && std::find(first, first + k, e) != first + k)
        ++load[static_cast<std::size_t>(e)];
    }
  return load;
}

}  // namespace moeref::eager
