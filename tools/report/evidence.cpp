#include "tools/report/evidence.hpp"

#include <algorithm>
#include <cmath>

#include "reference_cpu/verdict/value_verdict.hpp"

namespace moeref {
namespace {

constexpr std::int64_t kAround = 5;  // elements on either side of the worst one
constexpr std::int64_t kMapRows = 32, kMapColumns = 64;
constexpr std::size_t kTokensShown = 48;
constexpr std::size_t kDecisionsShown = 8;

std::vector<std::int64_t> row_of(const Tensor& ids, std::int64_t token, std::int64_t k) {
  std::vector<std::int64_t> row;
  for (std::int64_t j = 0; j < k; ++j) row.push_back(static_cast<std::int64_t>(ids[token * k + j]));
  return row;
}

bool are_distinct_experts(std::vector<std::int64_t> ids, std::int64_t experts) {
  std::ranges::sort(ids);
  return std::ranges::adjacent_find(ids) == ids.end() &&
         (ids.empty() || (ids.front() >= 0 && ids.back() < experts));
}

RoutingEvidence compare_routing(const RoutingScores& routing, const std::vector<double>& reference,
                                const Tensor& ids) {
  RoutingEvidence out{routing.indices, routing.tokens, routing.experts, 0, {}, {}, {}};
  const auto experts = static_cast<std::size_t>(routing.experts);
  out.reference_load.resize(experts);
  out.port_load.resize(experts);
  const auto count = [&](std::vector<std::int64_t>& load, std::vector<std::int64_t> row) {
    std::ranges::sort(row);
    row.erase(std::unique(row.begin(), row.end()), row.end());
    for (const std::int64_t id : row)
      if (id >= 0 && id < routing.experts) ++load[static_cast<std::size_t>(id)];
    return row;
  };
  const bool all_shown = routing.tokens <= static_cast<std::int64_t>(kTokensShown);
  for (std::int64_t t = 0; t < routing.tokens; ++t) {
    const auto first = reference.begin() + t * routing.k;
    RoutingEvidence::Token token{t, {first, first + routing.k}, row_of(ids, t, routing.k)};
    const bool differs = count(out.reference_load, token.reference) != count(out.port_load, token.port) ||
                         !are_distinct_experts(token.port, routing.experts);
    out.differing += differs;
    if (all_shown || (differs && out.shown.size() < kTokensShown)) out.shown.push_back(std::move(token));
  }
  return out;
}

RatioMap map_ratios(const Tensor& candidate, const BoundedTensor& reference) {
  const std::int64_t columns = reference.shape.empty() ? 1 : reference.shape.back();
  const std::int64_t rows = columns == 0 ? 0 : candidate.size() / columns;
  RatioMap map;
  map.columns_a_cell = std::max<std::int64_t>(1, (columns + kMapColumns - 1) / kMapColumns);
  map.rows_a_cell = std::max<std::int64_t>(1, (rows + kMapRows - 1) / kMapRows);
  map.columns = (columns + map.columns_a_cell - 1) / map.columns_a_cell;
  map.rows = (rows + map.rows_a_cell - 1) / map.rows_a_cell;
  map.worst.resize(static_cast<std::size_t>(map.rows * map.columns));
  for (std::int64_t i = 0; i < candidate.size(); ++i) {
    const auto n = static_cast<std::size_t>(i);
    const std::int64_t row = i / columns / map.rows_a_cell, column = i % columns / map.columns_a_cell;
    double& worst = map.worst[static_cast<std::size_t>(row * map.columns + column)];
    worst = std::max(worst, value_ratio(candidate[i], reference.value[n], reference.bound[n]));
  }
  return map;
}

}  // namespace

double EvidenceValue::ratio() const { return value_ratio(value, reference, bound); }

Evidence collect_evidence(ReferenceResults& results, const NamedTensors& candidate, const std::string& tensor,
                          std::int64_t worst) {
  Evidence out;
  const Evaluation& own = results.own();
  for (const RoutingScores& scores : own.routing) {
    const Tensor* ids = find(candidate, scores.indices);
    if (has_ids(scores, ids) && out.routing.size() < kDecisionsShown)
      out.routing.push_back(compare_routing(scores, own.results.at(scores.indices).value, *ids));
  }

  out.tensor = tensor;
  // Slots have no order, so that ids say nothing one by one.
  if (std::ranges::any_of(own.routing, [&](const RoutingScores& r) { return r.indices == tensor; }))
    return out;
  // What follows from the ids is compared with what the reference makes of the candidate's.
  const Evaluation& reference = results.on_routing_of(candidate);
  const auto result = reference.results.find(tensor);
  const Tensor* values = find(candidate, tensor);
  if (result == reference.results.end() || !values || values->shape() != result->second.shape) return out;
  out.shape = values->shape();
  out.ratios = map_ratios(*values, result->second);
  if (worst < 0 || worst >= values->size()) return out;
  out.worst = worst;
  const std::int64_t first = std::max<std::int64_t>(0, worst - kAround);
  for (std::int64_t i = first; i < std::min(values->size(), worst + kAround + 1); ++i) {
    const auto n = static_cast<std::size_t>(i);
    out.around.push_back({i, (*values)[i], result->second.value[n], result->second.bound[n]});
  }
  return out;
}

}  // namespace moeref
