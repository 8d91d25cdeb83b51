// The verdict on one token's expert ids (TOLERANCE.md, Routing; extremal argument).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "moeref/reference.hpp"

namespace moeref {

enum class Selection : std::uint8_t {
  certified,    ///< every honest port chooses this set, and it was chosen
  explainable,  ///< some scores within the bounds give the chosen set
  wrong,        ///< none do
};

struct SelectionVerdict {
  Selection selection = Selection::wrong;
  bool certain = false;  ///< the bounds leave one set only
  bool own = false;      ///< the reference's own set
  std::string finding;   ///< why, where it is wrong
};

/// Judges ids [k] of token t. Certified when min over S* of (s - e) > max outside of (s + e), S* the reference's set;
/// explainable when min over S of (s + e) >= max outside of (s - e), S the ids' set. With groups the same holds for group
/// scores first, then inside every set of groups that is explainable.
SelectionVerdict judge_selection(const RoutingScores& routing, std::int64_t token, std::span<const std::int64_t> ids);

}  // namespace moeref
