// The score functions of the gate: their names and how they select. Their formulas are rows of
// reference_cpu/components/score.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

enum class ScoreFunc : std::uint8_t { softmax, sigmoid, sigmoid_with_bias, softmax_with_bias, sqrtsoftplus };

/// How a group of experts is scored, and what the scores of a discarded group become.
enum class GroupRule : std::uint8_t {
  none,          ///< groups are ignored
  max_or_top2,   ///< the largest score without a correction bias, else the sum of the two largest; 0
  top2_zero,     ///< the sum of the two largest; 0
  top2_exclude,  ///< the sum of the two largest; -inf
};

struct ScoreFuncFacts {
  ScoreFunc kind;
  std::string_view name;
  GroupRule groups;
  bool adds_correction_bias;  ///< a correction bias, where there is one, is added before the selection
};

/// One row per score function, in the order of the enum.
inline constexpr auto kScoreFuncs = std::to_array<ScoreFuncFacts>({
    {ScoreFunc::softmax, "softmax", GroupRule::none, false},
    {ScoreFunc::sigmoid, "sigmoid", GroupRule::max_or_top2, true},
    {ScoreFunc::sigmoid_with_bias, "sigmoid_with_bias", GroupRule::top2_exclude, true},
    {ScoreFunc::softmax_with_bias, "softmax_with_bias", GroupRule::top2_zero, true},
    {ScoreFunc::sqrtsoftplus, "sqrtsoftplus", GroupRule::none, true},
});

constexpr const ScoreFuncFacts& facts(ScoreFunc score_func) {
  return kScoreFuncs[static_cast<std::size_t>(score_func)];
}
constexpr bool uses_groups(ScoreFunc score_func) { return facts(score_func).groups != GroupRule::none; }

std::string_view name(ScoreFunc score_func);

}  // namespace moeref
