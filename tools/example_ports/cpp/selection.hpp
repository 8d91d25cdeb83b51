// Top-k with the lowest ids first among equals, and the choice of expert groups.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace example {

/// The ids of the k largest values, largest first.
inline std::vector<std::int64_t> largest(const std::vector<float>& values, long k) {
  std::vector<std::int64_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  ids.resize(static_cast<std::size_t>(k));
  return ids;
}

/// A group's score is the sum of its `summed` largest values; the values of all but the `kept` best groups
/// become 0.
inline void keep_best_groups(std::vector<float>& values, long groups, long kept, long summed) {
  const std::size_t size = values.size() / static_cast<std::size_t>(groups);
  std::vector<float> scores;
  for (auto first = values.begin(); first != values.end(); first += static_cast<long>(size)) {
    std::vector<float> group(first, first + static_cast<long>(size));
    std::partial_sort(group.begin(), group.begin() + summed, group.end(), std::greater<float>());
    scores.push_back(std::accumulate(group.begin(), group.begin() + summed, 0.0f));
  }
  const std::vector<std::int64_t> best = largest(scores, kept);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (std::find(best.begin(), best.end(), static_cast<std::int64_t>(i / size)) == best.end())
      values[i] = 0.0f;
}

}  // namespace example
