// Updates of the correction bias that the documented system does not have: centred steps, quantiles of
// scores.
#include <algorithm>

#include "property_tests/router/plain_quantiles.hpp"
#include "property_tests/router/update_rounds.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Steps less the mean of all of them, which three roundings in fp32 may move.
void centred_steps(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t s = 0; s < d.steps; ++s) {
    double total = 0.0, mean = 0.0;
    std::vector<double> steps;
    for (std::int64_t e = 0; e < d.E; ++e) total += a.at(load_name(s), e);
    for (std::int64_t e = 0; e < d.E; ++e) {
      const double gap = total - a.at(load_name(s), e) * static_cast<double>(d.E);
      steps.push_back(gap > 0.0 ? d.factor : gap < 0.0 ? -d.factor : 0.0);
      mean += steps.back() / static_cast<double>(d.E);
    }
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_near(bias_name(s), e, a.at(bias_name(s), e),
                  bias_before(a, s, e) + steps[static_cast<std::size_t>(e)] - mean,
                  2.0 * a.bound(bias_name(s), e), "steps less their mean");
  }
}

/// Quantiles of exact scores, from the bias that the implementation had before the round.
void quantile_update(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t s = 0; s < d.steps; ++s) {
    std::vector<double> before;
    for (std::int64_t e = 0; e < d.E; ++e) before.push_back(bias_before(a, s, e));
    const std::vector<double> after = plain_quantile_update(a.call(), s, before);
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_near(bias_name(s), e, a.at(bias_name(s), e), after[static_cast<std::size_t>(e)],
                  2.0 * a.bound(bias_name(s), e),
                  "the bias by which every expert would have its share of the tokens");
  }
}

void arrange_quantile(Descriptor& d) {
  d.E = std::max<std::int64_t>(d.E, 3);
  d.k = std::clamp<std::int64_t>(d.k, 1, d.E - 1);
  d.groups = d.limited = 1;
  if (facts(d.score).selects_by_logits) d.score = ScoreFunc::sigmoid;
  d.T = std::max<std::int64_t>(d.T, 5);
  if (d.mask == Mask::all) d.mask = Mask::random;
  if (d.seed % 2 == 0 && d.mask == Mask::absent) d.mask = Mask::random;
  d.steps = std::min<std::int64_t>(d.steps, 3);
  d.logits = d.seed % 3 == 0 ? Logits::levels : Logits::rough;
  d.poison = NonFinite::none;
  d.config.bias_update_rule = BiasUpdateRule::quantile;
  if (d.seed / 3 % 2 == 0) d.config.bias_update_ema = 0.5;
}

void arrange_centred(Descriptor& d) {
  d.config.centred_bias_update = true;
  d.E = std::max<std::int64_t>(d.E, 3);
}

const Property kBiasUpdateConventionProperties[] = {
    {"C11",
     "centred_steps",
     {Component::bias_update},
     PropertyClass::bounded,
     "under centred_bias_update the mean of all steps is taken off each",
     {"step not centred"},
     arrange_centred,
     centred_steps},
    {"C13",
     "quantile_update",
     {Component::bias_update},
     PropertyClass::bounded,
     "under the rule quantile the bias is made of quantiles of the scores, blended with the old one and "
     "centred",
     {"k-th for k + 1st", "share of m tokens", "padding counted", "biased scores", "not centred", "sign"},
     arrange_quantile,
     quantile_update},
};

}  // namespace

std::span<const Property> bias_update_convention_properties() { return kBiasUpdateConventionProperties; }

}  // namespace moeref
