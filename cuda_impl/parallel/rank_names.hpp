#pragma once

#include <string>

namespace moeref::cuda {

/// How messages name the ranks p < size for which `is_meant(p)`: "rank 1", "ranks 1, 3".
template <class Predicate>
std::string rank_names(int size, Predicate is_meant) {
  std::string numbers;
  int count = 0;
  for (int p = 0; p < size; ++p)
    if (is_meant(p)) numbers += (count++ ? ", " : "") + std::to_string(p);
  return (count == 1 ? "rank " : "ranks ") + numbers;
}

}  // namespace moeref::cuda
