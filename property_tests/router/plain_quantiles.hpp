// The bias that an update by quantiles makes (SPEC 10), in plain double arithmetic, with parts that a mutant
// may replace.
#pragma once

#include <cstdint>
#include <vector>

#include "moeref/implementation.hpp"

namespace moeref {

struct QuantileParts {
  std::int64_t next = 1;       ///< alpha is that many places past the k - 1st largest
  std::int64_t past = 0;       ///< the quantile is so many places past the floor(m k / E) + 1st
  bool counts_slots = true;    ///< an expert's share is of m k slots, not of m tokens
  bool counts_masked = false;  ///< masked tokens are among the m
  bool biased = false;         ///< alpha is taken from the score with the bias
  bool keeps = true;           ///< of the old bias, its share
  bool centres = true;
  std::int64_t sign = -1;  ///< of the quantile in the bias
};

/// The bias [E] after round `step` of a bias_update call whose bias was `before` [E].
std::vector<double> plain_quantile_update(const Call& call, std::int64_t step,
                                          const std::vector<double>& before, const QuantileParts& parts = {});

}  // namespace moeref
