#include "reference_cpu/components/capacity.hpp"

#include <algorithm>
#include <cmath>

#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

using Slots = std::vector<std::int64_t>;

/// The slots (t k + j) of each expert among the real tokens [first, last), ascending.
std::vector<Slots> slots_of_experts(const MoEConfig& c, const std::vector<std::int64_t>& ids,
                                    const std::vector<bool>& mask, std::int64_t first, std::int64_t last) {
  const std::int64_t k = c.n_activated_experts;
  std::vector<Slots> out(static_cast<std::size_t>(c.n_routed_experts));
  for (std::int64_t slot = first * k; slot < last * k; ++slot) {
    const std::int64_t id = ids[static_cast<std::size_t>(slot)];
    if (mask[static_cast<std::size_t>(slot / k)] && id != c.null_id())
      out[static_cast<std::size_t>(id)].push_back(slot);
  }
  return out;
}

/// An expert's slots in the order in which it takes them.
void order_slots(const MoEConfig& c, const Bounded& weights, Slots& slots) {
  const std::int64_t k = c.n_activated_experts;
  if (c.capacity_order == CapacityOrder::choice)
    std::ranges::stable_sort(slots, {}, [k](std::int64_t slot) { return slot % k; });
  if (c.capacity_order == CapacityOrder::weight)
    std::ranges::stable_sort(slots, [&](std::int64_t a, std::int64_t b) {
      const double left = weights.at(a).value, right = weights.at(b).value;
      return std::isnan(left) ? !std::isnan(right) : left > right;
    });
}

/// Whether some weights within their bounds make an expert of this capacity keep the slots that `shown` keeps
/// and drop the others.
bool explainable(const Bounded& weights, const Slots& slots, const std::vector<std::int64_t>& shown,
                 std::int64_t null, std::size_t capacity) {
  std::size_t kept = 0;
  double least_kept = INFINITY, largest_dropped = -INFINITY;
  for (const std::int64_t slot : slots) {
    const Real weight = weights.at(slot);
    if (shown[static_cast<std::size_t>(slot)] != null) {
      ++kept;
      least_kept = std::min(least_kept, weight.value + weight.error);
    } else {
      largest_dropped = std::max(largest_dropped, weight.value - weight.error);
    }
  }
  return kept == std::min(capacity, slots.size()) && !(least_kept < largest_dropped);
}

}  // namespace

std::vector<std::int64_t> dispatched_ids(const MoEConfig& c, const ParallelOptions& parallel,
                                         const std::vector<std::int64_t>& ids, const Bounded& weights,
                                         const std::vector<bool>& mask,
                                         const std::vector<std::int64_t>* shown) {
  const std::int64_t null = c.null_id();
  std::vector<std::int64_t> out = ids;
  bool follows = shown && c.capacity_order == CapacityOrder::weight;
  for (std::size_t slot = 0; follows && slot < ids.size(); ++slot) {
    const bool may_drop = mask[slot / static_cast<std::size_t>(c.n_activated_experts)];
    follows = (*shown)[slot] == ids[slot] || (may_drop && (*shown)[slot] == null);
  }
  const auto offsets = rank_offsets(parallel.size(), parallel.tokens_per_rank, weights.rows);
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r) {
    const auto capacity = static_cast<std::size_t>(c.capacity(offsets[r + 1] - offsets[r]));
    for (Slots& slots : slots_of_experts(c, ids, mask, offsets[r], offsets[r + 1])) {
      follows = follows && explainable(weights, slots, *shown, null, capacity);
      order_slots(c, weights, slots);
      for (std::size_t i = capacity; i < slots.size(); ++i) out[static_cast<std::size_t>(slots[i])] = null;
    }
  }
  return follows ? *shown : out;
}

}  // namespace moeref
