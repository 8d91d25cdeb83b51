// What the gate selects by rules that the documented system does not have (SPEC 10), on calls in which the
// rule decides.
#include <algorithm>
#include <cmath>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void arrange_group_rule(Descriptor& d) {
  if (facts(d.score).selects_by_logits) d.score = ScoreFunc::softmax_with_bias;
  d.groups = std::max<std::int64_t>(d.groups, 2);
  if (d.E / d.groups < 3) d.E = 3 * d.groups;
  d.limited = std::min(d.limited, d.groups - 1);
  if (d.seed % 4 == 3) {  // a k that g does not divide
    d.config.group_score = GroupScore::topk_over_g_sum;
    d.groups = std::max<std::int64_t>(d.groups, 3);
    d.limited = 2;
    d.k = 3;
    if (d.E / d.groups < 3 || d.E % d.groups != 0) d.E = 3 * d.groups;
  }
  if (d.config.group_score == GroupScore::by_score_func)
    d.config.group_score = d.seed % 3 == 0   ? GroupScore::largest
                           : d.seed % 3 == 1 ? GroupScore::top2_sum
                                             : GroupScore::topk_over_g_sum;
  if (d.config.discarded_groups == DiscardedGroups::by_score_func)
    d.config.discarded_groups = d.seed % 2 == 0 ? DiscardedGroups::zero : DiscardedGroups::minus_infinity;
  if (d.seed % 2 == 1) d.correction = Correction::negative;  // where 0 and minus infinity differ
  if (d.logits != Logits::levels && d.logits != Logits::skewed) d.logits = Logits::levels;
}

void group_rule(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Matrix q = choices_of(call);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    compared += expect_selected(a, t, largest(q, t, d.k),
                                "groups are scored and discarded as group_score and discarded_groups say");
  require_some(compared, d.T);
}

void arrange_selection(Descriptor& d) {
  d.config.selection_scores = SelectionScores::logits;
  if (facts(d.score).selects_by_logits) d.score = ScoreFunc::sigmoid;
  d.biased_weights = false;
  if (d.correction == Correction::none || d.correction == Correction::zero) d.correction = Correction::normal;
  d.E = std::max<std::int64_t>(d.E, 4);
  d.groups = d.limited = 1;
  d.k = std::min(d.k, d.E / 2);
  if (d.logits != Logits::rough) d.logits = Logits::levels;
}

/// Every token has the experts of its k largest `q`, and weights are scores.
void expect_choices(const Descriptor& d, const Answer& a, const Matrix& q, const char* selected_by,
                    const char* weighed_by) {
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) compared += expect_selected(a, t, largest(q, t, d.k), selected_by);
  require_some(compared, d.T);
  expect_weights(a, weighed_by);
}

/// The order of z + c, which is not that of S + c; weights are scores.
void selection_rule(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  expect_choices(d, Answer(impl, call), choices_of(call), "logits and the correction bias are selected by",
                 "weights are scores without the correction bias");
}

void arrange_always_selected(Descriptor& d) {
  arrange_plain(d);
  if (d.seed % 2 == 0) d.correction = Correction::normal;
  if (d.config.n_always_selected == 0) d.config.n_always_selected = 1 + static_cast<std::int64_t>(d.seed % 2);
  d.config.n_identity_experts = 0;
  d.biased_weights = false;
  d.norm = d.before_topk = true;
  const std::int64_t most = d.config.n_always_selected + 1;
  d.E = std::max<std::int64_t>(d.E, most + 2);
  d.k = std::max(d.k, most);
  if (d.logits != Logits::rough) d.logits = Logits::levels;
}

/// The last experts, the best of the others, and one sum for all of their scores.
void always_selected(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Matrix q = choices_of(call);
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t e = d.E - d.config.n_always_selected; e < d.E; ++e) q.at(t, e) = INFINITY;
  expect_choices(d, Answer(impl, call), q, "every token has the last n_always_selected experts",
                 "experts that every token has are in the sum that divides weights");
}

void arrange_sinkhorn(Descriptor& d) {
  arrange_plain(d);
  d.config.selection_scores = SelectionScores::sinkhorn;
  d.config.n_always_selected = 0;
  d.precision = DType::float32;
  d.eval = d.biased_weights = false;
  d.E = std::clamp<std::int64_t>(d.E, 3, 8);
  d.k = std::min<std::int64_t>(d.k, 2);
  d.T = std::clamp<std::int64_t>(d.T, 6, 24);
  if (d.logits != Logits::rough) d.logits = d.seed % 2 == 0 ? Logits::skewed : Logits::levels;
}

/// The last experts' and tokens' factors of exp(z), in double, of each rank's tokens.
void sinkhorn_selection(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  expect_choices(d, Answer(impl, call), balanced_choices_of(call), "balanced logits are selected by",
                 "weights are scores that are not balanced");
}

const Property kSelectionConventionProperties[] = {
    {"C2",
     "group_rule",
     {Component::gate},
     PropertyClass::exact,
     "groups are scored and discarded as group_score and discarded_groups say, under every score function",
     {"M8", "O2"},
     arrange_group_rule,
     group_rule},
    {"C6",
     "selection_rule",
     {Component::gate},
     PropertyClass::bounded,
     "under selection_scores the order of logits plus the correction bias selects, and scores weigh",
     {"bias on logits, sigmoid after"},
     arrange_selection,
     selection_rule},
    {"C7",
     "always_selected",
     {Component::gate},
     PropertyClass::bounded,
     "the last n_always_selected experts are among the k of every token, and weighed with the others",
     {"shared experts in the router's normalisation"},
     arrange_always_selected,
     always_selected},
    {"C6",
     "sinkhorn_selection",
     {Component::gate},
     PropertyClass::bounded,
     "under selection_scores = sinkhorn the order of balanced exp(z) selects, and scores weigh",
     {"sinkhorn"},
     arrange_sinkhorn,
     sinkhorn_selection},
};

}  // namespace

std::span<const Property> selection_convention_properties() { return kSelectionConventionProperties; }

}  // namespace moeref
