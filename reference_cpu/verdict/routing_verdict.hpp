// The verdict on one token's expert ids (VERDICTS.md, Routing; extremal argument).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "moeref/evaluation.hpp"

namespace moeref {

enum class Selection : std::uint8_t {
  own,          ///< the reference's own set
  tied,         ///< another set, which equal scores at the cut allow: their order is left
                ///< open
  explainable,  ///< another set, that some scores within the bounds give
  wrong,        ///< no scores within the bounds give it
  invalid,      ///< an id out of range or twice
};

struct SelectionVerdict {
  Selection selection = Selection::wrong;
  bool certified = false;  ///< the bounds leave one set only
  std::string finding;     ///< why, where it is wrong or invalid
};

/// Judges ids [k] of token t. A token is certified when min over S* of (s - e) > max outside of (s + e), S*
/// the reference's set; ids are explainable when min over S of (s + e) >= max outside of (s - e), S the ids'
/// set. With groups the same holds for group scores first, then inside every set of groups that is
/// explainable. `others` is what the finding says of the set that belongs there.
SelectionVerdict judge_selection(const RoutingScores& routing, std::int64_t token,
                                 std::span<const std::int64_t> ids,
                                 std::string_view others = "the reference has");

/// Whether the bounds leave nothing open but the order of exactly equal scores, and ids [k] of token t, which
/// are different ones in range, are one of the sets that this allows.
bool settled_but_for_ties(const RoutingScores& routing, std::int64_t token,
                          std::span<const std::int64_t> ids);

/// Whether a score of token t is NaN, or may become it as 0 times infinity where its group is discarded: the
/// tie rule does not apply to what has no place in an order.
bool has_nan(const RoutingScores& routing, std::int64_t token);

}  // namespace moeref
