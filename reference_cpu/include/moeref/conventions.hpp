// Rules that the documented system does not have and widely used layers do: each is a field of MoEConfig,
// whose default is the documented system's own rule (SPEC 10 has the formulas and who uses them).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moeref {

/// What routing weights, and scores of the auxiliary loss, are divided by where norm_topk_prob is set.
enum class NormDenominator : std::uint8_t {
  sum_plus_eps,       ///< sum + norm_eps
  max_of_sum_and_eps  ///< max(sum, norm_eps)
};

/// What norm_topk_prob means with k = 1.
enum class Top1Norm : std::uint8_t {
  none,               ///< neither weights nor scores are divided
  scores,             ///< the auxiliary loss sees divided scores; the weight stays as it is
  weights_and_scores  ///< both are divided, as with any other k: the weight is about 1
};

/// A group's score by the selection scores of its experts.
enum class GroupScore : std::uint8_t {
  by_score_func,    ///< the rule of the score function (GroupRule)
  largest,          ///< the largest
  top2_sum,         ///< the sum of the two largest
  topk_over_g_sum,  ///< the sum of the k / g largest, rounded down: g = n_limited_groups
};

/// What the selection scores of a discarded group's experts become.
enum class DiscardedGroups : std::uint8_t {
  by_score_func,   ///< the rule of the score function (GroupRule)
  zero,            ///< 0, which may be selected where other scores are negative
  minus_infinity,  ///< below every score
};

/// What the k largest of select.
enum class SelectionScores : std::uint8_t {
  by_score_func,  ///< scores plus the correction bias, or the logits of softmax
  logits,         ///< logits plus the correction bias; weights are still made of scores
  sinkhorn,       ///< in training, exp of logits balanced over the call's tokens and experts
};

/// The factor of the auxiliary loss: f_i = factor load_i / n.
enum class AuxLossFactor : std::uint8_t {
  experts_over_k,  ///< E / k: 1 where all loads are equal
  experts,         ///< E
};

/// Which of a token's slots the loads of the auxiliary loss count.
enum class AuxLossCounts : std::uint8_t {
  every_choice,  ///< all k
  first_choice,  ///< the first one alone
};

/// Which expert id marks a null slot: one that has weight 0 and is counted and differentiated nowhere.
enum class NullSlots : std::uint8_t {
  given,             ///< -1, and among the inputs of experts and of the auxiliary loss alone
  minus_one,         ///< -1, among replayed ids too
  n_routed_experts,  ///< E, in both
};

/// Which slots of a full expert are kept.
enum class CapacityOrder : std::uint8_t {
  token,   ///< those of the first tokens
  choice,  ///< those of first choices before second ones, and of these those of the first tokens
  weight,  ///< those with the largest routing weights
};

/// Where rows of the latent size are divided by their root mean square, and multiplied by latent_norm.weight.
enum class LatentNorm : std::uint8_t {
  none,
  before_fc2,  ///< the routed experts' sum, before it returns to the model's width
  after_fc1,   ///< the routed experts' input
};

/// How the correction bias is updated.
enum class BiasUpdateRule : std::uint8_t {
  sign_of_load,  ///< a step of gate_bias_update_factor by the sign of mean load - load
  quantile,      ///< from the scores that would give every expert its share of the tokens
};

template <typename Enum>
struct ConventionName {
  Enum kind;
  std::string_view name;
};

// One row per enumerator, in the order of the enum.
inline constexpr auto kNormDenominators = std::to_array<ConventionName<NormDenominator>>({
    {NormDenominator::sum_plus_eps, "sum_plus_eps"},
    {NormDenominator::max_of_sum_and_eps, "max_of_sum_and_eps"},
});
inline constexpr auto kTop1Norms = std::to_array<ConventionName<Top1Norm>>({
    {Top1Norm::none, "none"},
    {Top1Norm::scores, "scores"},
    {Top1Norm::weights_and_scores, "weights_and_scores"},
});
inline constexpr auto kGroupScores = std::to_array<ConventionName<GroupScore>>({
    {GroupScore::by_score_func, "by_score_func"},
    {GroupScore::largest, "largest"},
    {GroupScore::top2_sum, "top2_sum"},
    {GroupScore::topk_over_g_sum, "topk_over_g_sum"},
});
inline constexpr auto kDiscardedGroups = std::to_array<ConventionName<DiscardedGroups>>({
    {DiscardedGroups::by_score_func, "by_score_func"},
    {DiscardedGroups::zero, "zero"},
    {DiscardedGroups::minus_infinity, "minus_infinity"},
});
inline constexpr auto kSelectionScores = std::to_array<ConventionName<SelectionScores>>({
    {SelectionScores::by_score_func, "by_score_func"},
    {SelectionScores::logits, "logits"},
    {SelectionScores::sinkhorn, "sinkhorn"},
});
inline constexpr auto kAuxLossFactors = std::to_array<ConventionName<AuxLossFactor>>({
    {AuxLossFactor::experts_over_k, "experts_over_k"},
    {AuxLossFactor::experts, "experts"},
});
inline constexpr auto kAuxLossCounts = std::to_array<ConventionName<AuxLossCounts>>({
    {AuxLossCounts::every_choice, "every_choice"},
    {AuxLossCounts::first_choice, "first_choice"},
});
inline constexpr auto kNullSlots = std::to_array<ConventionName<NullSlots>>({
    {NullSlots::given, "given"},
    {NullSlots::minus_one, "minus_one"},
    {NullSlots::n_routed_experts, "n_routed_experts"},
});
inline constexpr auto kCapacityOrders = std::to_array<ConventionName<CapacityOrder>>({
    {CapacityOrder::token, "token"},
    {CapacityOrder::choice, "choice"},
    {CapacityOrder::weight, "weight"},
});
inline constexpr auto kLatentNorms = std::to_array<ConventionName<LatentNorm>>({
    {LatentNorm::none, "none"},
    {LatentNorm::before_fc2, "before_fc2"},
    {LatentNorm::after_fc1, "after_fc1"},
});
inline constexpr auto kBiasUpdateRules = std::to_array<ConventionName<BiasUpdateRule>>({
    {BiasUpdateRule::sign_of_load, "sign_of_load"},
    {BiasUpdateRule::quantile, "quantile"},
});

/// The table of an enum of this page: `rows_of(GroupScore{})`.
constexpr const auto& rows_of(NormDenominator) { return kNormDenominators; }
constexpr const auto& rows_of(Top1Norm) { return kTop1Norms; }
constexpr const auto& rows_of(GroupScore) { return kGroupScores; }
constexpr const auto& rows_of(DiscardedGroups) { return kDiscardedGroups; }
constexpr const auto& rows_of(SelectionScores) { return kSelectionScores; }
constexpr const auto& rows_of(AuxLossFactor) { return kAuxLossFactors; }
constexpr const auto& rows_of(AuxLossCounts) { return kAuxLossCounts; }
constexpr const auto& rows_of(NullSlots) { return kNullSlots; }
constexpr const auto& rows_of(CapacityOrder) { return kCapacityOrders; }
constexpr const auto& rows_of(LatentNorm) { return kLatentNorms; }
constexpr const auto& rows_of(BiasUpdateRule) { return kBiasUpdateRules; }

/// An enum with a table here.
template <typename Enum>
concept Convention = requires(Enum value) {
  rows_of(value);
};

template <Convention Enum>
constexpr std::string_view name(Enum value) {
  return rows_of(value)[static_cast<std::size_t>(value)].name;
}

}  // namespace moeref
