// Ports that update the correction bias by quantiles of the scores (SPEC 10) wrongly.
#include <string>

#include "property_tests/mutants/mutant_parts.hpp"
#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/router/plain_quantiles.hpp"

namespace moeref {
namespace {

bool updates_by_quantiles(const Call& call) {
  return is(call, Component::bias_update) && call.config.value("bias_update_rule", "") == "quantile";
}

/// The sound biases plus what the parts change in a round that begins with the sound bias.
template <QuantileParts Parts>
NamedTensors quantiles_with(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!updates_by_quantiles(call)) return out;
  std::vector<double> before = call.tensors.at("params/e_score_correction_bias").doubles();
  const NamedTensors right = out;
  for (std::int64_t s = 0; s < call.options.value("steps", std::int64_t{1}); ++s) {
    const std::string name = "outputs/e_score_correction_bias_" + std::to_string(s);
    const std::vector<double> plain = plain_quantile_update(call, s, before),
                              other = plain_quantile_update(call, s, before, Parts);
    change(out, name, [&](std::int64_t e, double value) {
      return value + (other[static_cast<std::size_t>(e)] - plain[static_cast<std::size_t>(e)]);
    });
    before = right.at(name).doubles();
  }
  return out;
}

NamedTensors quantile_is_sign_of_load(Implementation& sound, const Call& call) {
  if (!updates_by_quantiles(call)) return sound.run(call);
  Call other = call;
  other.config.erase("bias_update_rule");
  return sound.run(other);
}

}  // namespace

std::span<const Mutant> quantile_mutants() {
  const auto row = [](std::string_view name, std::string_view does,
                      NamedTensors (*run)(Implementation&, const Call&)) {
    return Mutant{.name = name,
                  .source = "Megatron-Core #5349 has the right one",
                  .components = {Component::bias_update},
                  .does = does,
                  .first_wrong = kUpdatedBias,
                  .property = "quantile_update",
                  .run = run};
  };
  static const std::vector<Mutant> kRows{
      row("quantile_is_sign_of_load", "the bias makes steps by the sign of the load under the rule quantile",
          quantile_is_sign_of_load),
      row("quantile_by_the_last_chosen", "alpha is the score of the last expert chosen, not of the next one",
          quantiles_with<QuantileParts{.next = 0}>),
      row("quantile_one_place_early", "the quantile is the last score of an expert's share, not the next one",
          quantiles_with<QuantileParts{.past = -1}>),
      row("quantile_of_one_slot", "an expert's share is m / E tokens in place of m k / E",
          quantiles_with<QuantileParts{.counts_slots = false}>),
      row("quantile_counts_padding", "masked tokens are among those that quantiles are of",
          quantiles_with<QuantileParts{.counts_masked = true}>),
      row("quantile_of_biased_scores", "quantiles are of scores with the bias in them",
          quantiles_with<QuantileParts{.biased = true}>),
      row("quantile_keeps_nothing", "bias_update_ema is ignored",
          quantiles_with<QuantileParts{.keeps = false}>),
      row("quantile_not_centred", "the mean stays in the bias",
          quantiles_with<QuantileParts{.centres = false}>),
      row("quantile_added", "quantiles are added to scores, not taken off",
          quantiles_with<QuantileParts{.sign = 1}>),
  };
  return kRows;
}

}  // namespace moeref
