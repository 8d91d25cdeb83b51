// Calls whose tokens are copies of a few. The reference computes those few, and every row of the results by
// token is judged against the row that it copies: an error anywhere in a large tensor is seen, which neither
// samples nor sums with random signs see (VERDICTS.md, "A third call").
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "moeref/verdict.hpp"

namespace moeref {

/// For each of `count` tokens the one of `few` that it copies, at random; empty where there are none.
std::vector<std::int64_t> draw_copies(std::uint64_t seed, std::int64_t few, std::int64_t count);

struct CopiesVerdict {
  std::vector<TensorVerdict> tensors;
  std::int64_t judged = 0;  ///< elements
  std::int64_t open = 0;    ///< tokens with other experts than the token that they copy, explainably
};

/// Judges results of a call whose token t is token source[t] of the few that `few` was computed for, on the
/// routing that the candidate gave these. A token with the same experts is judged by every element; of one
/// with other experts the choice alone is. `of` comes behind each finding.
CopiesVerdict judge_copies(const Evaluation& few, std::span<const std::int64_t> source,
                           const NamedTensors& results, std::string_view of);

}  // namespace moeref
