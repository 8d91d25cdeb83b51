#include "reference_cpu/verdict/reference_results.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "reference_cpu/arithmetic/parallel_for.hpp"
#include "reference_cpu/verdict/element_chunks.hpp"

namespace moeref {
namespace {

/// Whether these are the same number with the same sign; all NaNs count as the same.
bool same_bits(double a, double b) {
  return a == b ? std::signbit(a) == std::signbit(b) : std::isnan(a) && std::isnan(b);
}

double rounded(DType dtype, double value) { return is_floating(dtype) ? round_to(dtype, value) : value; }

/// Row-major index of the first element that is not the reference's, rounded; -1 where all are.
std::int64_t first_difference(const Tensor& tensor, const BoundedTensor& reference) {
  std::mutex mutex;
  std::int64_t first = -1;
  for_each_chunk(tensor, [&](std::int64_t begin, std::span<const double> values) {
    const double* exact = reference.value.data() + begin;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (same_bits(rounded(tensor.dtype(), exact[i]), values[i])) continue;
      const std::lock_guard lock(mutex);
      const std::int64_t at = begin + static_cast<std::int64_t>(i);
      first = first < 0 ? at : std::min(first, at);
      return;
    }
  });
  return first;
}

constexpr std::string_view kReplayed = "inputs/replay_indices";
const std::string kDispatched = "outputs/dispatched_indices";

/// The same ids in every row, in any order.
bool same_sets(const Tensor& ids, const Tensor& given) {
  if (ids.shape() != given.shape() || ids.dtype() != DType::int64) return false;
  std::vector<double> left = ids.doubles(), right = given.doubles();
  const auto k = static_cast<std::ptrdiff_t>(ids.shape().back());
  for (auto a = left.begin(), b = right.begin(); a != left.end(); a += k, b += k) {
    std::sort(a, a + k);
    std::sort(b, b + k);
  }
  return left == right;
}

std::string seventeen_digits(double value) {
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%.17g", value);
  return text.data();
}

}  // namespace

bool has_ids(const RoutingScores& routing, const Tensor* ids) {
  return ids && ids->shape() == Shape{routing.tokens, routing.k} && ids->dtype() == DType::int64;
}

bool usable(const RoutingScores& routing, const Tensor* ids) {
  if (!has_ids(routing, ids)) return false;
  const auto all = ids->as<std::int64_t>();
  for (std::int64_t t = 0; t < routing.tokens; ++t)
    for (std::int64_t j = 0; j < routing.k; ++j) {
      const auto first = all.begin() + t * routing.k, at = first + j;
      if (*at < 0 || *at >= routing.experts || std::find(first, at, *at) != at) return false;
    }
  return true;
}

Evaluation ReferenceResults::compute(const NamedTensors& routing, const NamedTensors& stages) {
  ++evaluations_;
  return evaluate(call_, routing, stages);
}

NamedTensors ReferenceResults::usable_ids(const NamedTensors& candidate) {
  NamedTensors out;
  for (const RoutingScores& scores : own().routing)
    if (const Tensor* ids = find(candidate, scores.indices); usable(scores, ids)) out[scores.indices] = *ids;
  // Replayed ids may come back with their slots in another order, which carries no meaning.
  for (const auto& [given, replayed] : call_.tensors) {
    if (!given.starts_with(kReplayed)) continue;
    const std::string indices = "outputs/indices" + given.substr(kReplayed.size());
    if (const Tensor* ids = find(candidate, indices); ids && same_sets(*ids, replayed)) out[indices] = *ids;
  }
  // Which of these the experts get, where their capacity is limited.
  if (const auto it = own().results.find(kDispatched); it != own().results.end())
    if (const Tensor* ids = find(candidate, it->first);
        ids && ids->shape() == it->second.shape && ids->dtype() == DType::int64)
      out[it->first] = *ids;
  return out;
}

const Evaluation& ReferenceResults::own() {
  if (!own_) own_ = compute({}, {});
  return *own_;
}

const Evaluation& ReferenceResults::on_routing_of(const NamedTensors& candidate) {
  NamedTensors ids = usable_ids(candidate);
  const bool same = std::ranges::all_of(
      ids, [&](const auto& entry) { return entry.second.doubles() == own().results.at(entry.first).value; });
  if (same) return own();
  if (!forced_ || forced_ids_ != ids) {
    forced_.reset();
    forced_ = compute(ids, {});
    forced_ids_ = std::move(ids);
  }
  return *forced_;
}

Evaluation ReferenceResults::on_stages_of(const NamedTensors& candidate) {
  return compute(usable_ids(candidate), candidate);
}

std::optional<std::string> ReferenceResults::differing_bits(const NamedTensors& candidate) {
  for (const auto& [name, tensor] : candidate) {
    const auto it = own().results.find(name);
    if (it == own().results.end()) return name + " is no result of this call";
    const BoundedTensor& reference = it->second;
    if (reference.shape != tensor.shape()) return name + " has another shape";
    const std::int64_t at = first_difference(tensor, reference);
    if (at < 0) continue;
    const double want = rounded(tensor.dtype(), reference.value[static_cast<std::size_t>(at)]);
    return name + coordinates(at, tensor.shape()) + " is " + seventeen_digits(tensor[at]) + " where " +
           seventeen_digits(want) + " belongs";
  }
  return std::nullopt;
}

}  // namespace moeref
