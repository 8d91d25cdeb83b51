#include "moeref/verdict.hpp"

#include <algorithm>
#include <array>

namespace moeref {
namespace {

constexpr std::array<std::string_view, 7> kNames{"PASS", "AMBIGUOUS", "WAIVED", "NOT_SUPPORTED",
                                                 "FAIL", "HUNG",      "CRASHED"};

// Prefixes of tensors' names in the order of the stages; the first that matches counts.
constexpr std::array<std::string_view, 19> kStages{"stages/logits",
                                                   "stages/scores",
                                                   "outputs/indices",
                                                   "outputs/dispatched_indices",
                                                   "outputs/weights",
                                                   "outputs/expert_load",
                                                   "outputs/cumulative_expert_load",
                                                   "outputs/aux_loss",
                                                   "outputs/batch_loss",
                                                   "outputs/global_loss",
                                                   "outputs/z_loss",
                                                   "outputs/e_score_correction_bias",
                                                   "stages/permutation",
                                                   "stages/up_projection",
                                                   "stages/activation",
                                                   "stages/down_projection",
                                                   "stages/combine",
                                                   "stages/shared",
                                                   "outputs/"};

}  // namespace

std::string_view name(Verdict verdict) { return kNames[static_cast<std::size_t>(verdict)]; }

Verdict worse(Verdict a, Verdict b) { return std::max(a, b); }

const TensorVerdict* CaseVerdict::first_failure() const {
  const auto fails = [](const TensorVerdict& t) { return t.verdict >= Verdict::fail; };
  auto it = std::ranges::find_if(tensors,
                                 [&](const TensorVerdict& t) { return fails(t) && !(t.own_ratio <= 1.0); });
  if (it == tensors.end()) it = std::ranges::find_if(tensors, fails);
  return it == tensors.end() ? nullptr : &*it;
}

double CaseVerdict::worst_ratio() const {
  double worst = 0.0;
  for (const TensorVerdict& t : tensors) worst = std::max(worst, t.ratio);
  return worst;
}

int stage_order(std::string_view tensor) {
  const auto it =
      std::ranges::find_if(kStages, [&](std::string_view stage) { return tensor.starts_with(stage); });
  return static_cast<int>(it - kStages.begin());
}

}  // namespace moeref
