#include "reference_cpu/verdict/copied_tokens.hpp"

#include <algorithm>
#include <string>

#include "reference_cpu/arithmetic/counter_generator.hpp"
#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/call/tokens.hpp"
#include "reference_cpu/verdict/compare.hpp"
#include "reference_cpu/verdict/routing_verdict.hpp"
#include "reference_cpu/verdict/value_verdict.hpp"

namespace moeref {
namespace {

/// The worst element of one row.
struct WorstOfRow {
  double ratio = 0.0, value = 0.0;
  std::int64_t column = -1;
};

WorstOfRow worst_of_row(std::span<const double> row, const BoundedTensor& reference, std::int64_t source) {
  WorstOfRow out;
  const auto first = static_cast<std::size_t>(source) * row.size();
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double r = value_ratio(row[i], reference.value[first + i], reference.bound[first + i]);
    if (out.column >= 0 && !(r > out.ratio)) continue;
    out = {r, row[i], static_cast<std::int64_t>(i)};
  }
  return out;
}

/// Every row of a result against the one that it copies, but for those left out.
TensorVerdict compare_rows(const std::string& name, const Tensor& tensor, const BoundedTensor& reference,
                           std::span<const std::int64_t> source, const std::vector<bool>& left_out) {
  const auto count = static_cast<std::int64_t>(source.size());
  const std::int64_t width = tensor.size() / std::max<std::int64_t>(count, 1);
  std::vector<WorstOfRow> worst(source.size());
  parallel_pieces(count, 64, [&](std::int64_t first, std::int64_t size) {
    std::vector<double> row(static_cast<std::size_t>(width));
    for (std::int64_t t = first; t < first + size; ++t) {
      const auto at = static_cast<std::size_t>(t);
      if (left_out[at]) continue;
      tensor.read(t * width, row);
      worst[at] = worst_of_row(row, reference, source[at]);
    }
  });
  TensorVerdict out;
  out.tensor = name;
  for (std::size_t t = 0; t < worst.size(); ++t) {
    const WorstOfRow& row = worst[t];
    if (row.column < 0) continue;
    out.elements += width;
    if (out.index >= 0 && !(row.ratio > out.ratio)) continue;
    const std::int64_t place = source[t] * width + row.column;
    out.index = static_cast<std::int64_t>(t) * width + row.column;
    out.ratio = row.ratio;
    out.value = row.value;
    out.reference = reference.value[static_cast<std::size_t>(place)];
    out.bound = reference.bound[static_cast<std::size_t>(place)];
  }
  if (out.ratio > 1.0) {
    out.verdict = Verdict::fail;
    out.finding = "outside the bound";
  }
  return out;
}

/// Marks the tokens whose ids are not those of the token that they copy, and judges these.
TensorVerdict compare_ids(const RoutingScores& routing, const BoundedTensor& reference, const Tensor& ids,
                          std::span<const std::int64_t> source, std::vector<bool>& other) {
  TensorVerdict out;
  out.tensor = routing.indices;
  out.elements = ids.size();
  const auto all = ids.as<std::int64_t>();
  const auto k = static_cast<std::size_t>(routing.k);
  for (std::size_t t = 0; t < source.size(); ++t) {
    const auto chosen = all.subspan(t * k, k);
    const auto copied = reference.value.begin() + source[t] * routing.k;
    if (std::equal(chosen.begin(), chosen.end(), copied,
                   [](std::int64_t id, double value) { return static_cast<double>(id) == value; }))
      continue;
    other[t] = true;
    const SelectionVerdict verdict = judge_selection(routing, source[t], chosen);
    if (verdict.selection < Selection::wrong || out.verdict == Verdict::fail) continue;
    out = failed(routing.indices, "token " + std::to_string(t) + ": " + verdict.finding);
    out.elements = ids.size();
    out.index = static_cast<std::int64_t>(t * k);
  }
  return out;
}

}  // namespace

std::vector<std::int64_t> draw_copies(std::uint64_t seed, std::int64_t few, std::int64_t count) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(few > 0 ? count : 0));
  const CounterGenerator random(seed, "copies");
  for (std::size_t t = 0; t < out.size(); ++t)
    out[t] = static_cast<std::int64_t>(random.integer(t, static_cast<std::uint64_t>(few)));
  return out;
}

CopiesVerdict judge_copies(const Evaluation& few, std::span<const std::int64_t> source,
                           const NamedTensors& results, std::string_view of) {
  CopiesVerdict out;
  std::vector<bool> other(source.size(), false);
  const auto add = [&](TensorVerdict verdict) {
    if (!verdict.finding.empty()) verdict.finding += of;
    verdict.own_ratio = verdict.probable_ratio = verdict.ratio;
    out.judged += verdict.elements;
    out.tensors.push_back(std::move(verdict));
  };
  for (const RoutingScores& routing : few.routing)
    if (const Tensor* ids = find(results, routing.indices))
      add(compare_ids(routing, few.results.at(routing.indices), *ids, source, other));
  for (const std::string_view name : kTokenResults) {
    const auto reference = few.results.find(std::string(name));
    const Tensor* tensor = find(results, name);
    if (!tensor || reference == few.results.end() || name == "outputs/indices") continue;
    add(compare_rows(reference->first, *tensor, reference->second, source, other));
  }
  out.open = std::ranges::count(other, true);
  return out;
}

}  // namespace moeref
