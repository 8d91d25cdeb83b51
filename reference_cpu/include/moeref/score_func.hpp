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
  GroupRule groups = GroupRule::none;
  /// The selection orders logits without the correction bias, and softmax_before_topk says whether the scores
  /// are taken over all experts or over the selected ones. Else the selection orders scores plus the
  /// correction bias.
  bool selects_by_logits = false;
  bool weighs_corrected = false;  ///< router_weight_uses_score_correction_bias has an effect
  bool always_float32 = false;    ///< scores are float32 under every gate_precision
};

/// One row per score function, in the order of the enum.
inline constexpr auto kScoreFuncs = std::to_array<ScoreFuncFacts>({
    {.kind = ScoreFunc::softmax, .name = "softmax", .selects_by_logits = true},
    {.kind = ScoreFunc::sigmoid,
     .name = "sigmoid",
     .groups = GroupRule::max_or_top2,
     .weighs_corrected = true},
    {.kind = ScoreFunc::sigmoid_with_bias, .name = "sigmoid_with_bias", .groups = GroupRule::top2_exclude},
    {.kind = ScoreFunc::softmax_with_bias, .name = "softmax_with_bias", .groups = GroupRule::top2_zero},
    {.kind = ScoreFunc::sqrtsoftplus, .name = "sqrtsoftplus", .always_float32 = true},
});

constexpr const ScoreFuncFacts& facts(ScoreFunc score_func) {
  return kScoreFuncs[static_cast<std::size_t>(score_func)];
}
constexpr bool uses_groups(ScoreFunc score_func) { return facts(score_func).groups != GroupRule::none; }

std::string_view name(ScoreFunc score_func);

}  // namespace moeref
