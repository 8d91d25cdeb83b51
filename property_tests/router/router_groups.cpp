// Groups of experts.
#include <algorithm>
#include <set>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void all_groups(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call), b(impl, with_config(call, {{"n_expert_groups", 1}, {"n_limited_groups", 1}}));
  constexpr std::string_view text = "all groups may be chosen: as without groups";
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) compared += expect_same_routing(a, t, b, t, text);
  require_some(compared, d.T);
}

/// Groups of two experts or more, at least two of them.
void arrange_groups(Descriptor& d) {
  if (!uses_groups(d.score)) d.score = ScoreFunc::sigmoid;
  d.groups = std::max<std::int64_t>(d.groups, 2);
  if (d.E % d.groups != 0 || d.E < 2 * d.groups) d.E = d.groups * std::max<std::int64_t>(2, d.E / d.groups);
}

void arrange_all_groups(Descriptor& d) {
  arrange_groups(d);
  d.limited = d.groups;
}

void selected_groups(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const std::int64_t size = d.E / d.groups;
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::set<std::int64_t> groups;
    for (const Slot& s : slots_of(a, t)) groups.insert(s.expert / size);
    if (static_cast<std::int64_t>(groups.size()) > d.limited)
      fail({"outputs/indices", t * d.k, static_cast<double>(groups.size()), static_cast<double>(d.limited),
            0.0, "experts of more groups than may be chosen"});
  }
}

void arrange_selected_groups(Descriptor& d) {
  arrange_groups(d);
  // Where discarded groups score 0, only biased scores above 0 keep out of them; saturated ones may reach it.
  if (!moe_config(d).discards_to_zero()) return;
  if (d.correction == Correction::normal || d.correction == Correction::negative)
    d.correction = Correction::equal;
  if (d.logits != Logits::skewed && d.logits != Logits::rough) d.logits = Logits::levels;
}

void group_selection(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Matrix q = choices_of(call);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    compared +=
        expect_selected(a, t, largest(q, t, d.k), "groups are chosen by their score, experts within them");
  require_some(compared, d.T);
}

void arrange_group_selection(Descriptor& d) {
  arrange_groups(d);
  d.limited = std::min(d.limited, d.groups - 1);
  if (d.logits == Logits::ties || d.logits == Logits::equal || d.logits == Logits::large)
    d.logits = Logits::levels;
}

/// Negative biased scores: an expert of a discarded group, at exactly 0, beats an allowed one.
void zero_beats_negative(Implementation& impl, const Descriptor& d) { group_selection(impl, d); }

void arrange_negative_groups(Descriptor& d) {
  arrange_group_selection(d);
  if (d.score == ScoreFunc::sigmoid_with_bias && d.seed % 2 == 0) d.score = ScoreFunc::sigmoid;
  d.correction = Correction::negative;
  d.logits = Logits::levels;
}

void ignored_groups(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call), b(impl, with_config(call, {{"n_expert_groups", 1}, {"n_limited_groups", 1}}));
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    compared += expect_same_routing(a, t, b, t, "this score function has no groups");
  require_some(compared, d.T);
}

void arrange_ignored(Descriptor& d) {
  if (d.score != ScoreFunc::sqrtsoftplus) d.score = ScoreFunc::softmax;
  d.config.group_score = GroupScore::by_score_func;
  d.groups = std::max<std::int64_t>(d.groups, 2);
  if (d.E % d.groups != 0) d.E = d.groups * std::max<std::int64_t>(1, d.E / d.groups);
}

const Property kRouterGroupProperties[] = {
    {"P15",
     "all_groups",
     {Component::gate},
     PropertyClass::exact,
     "as many limited groups as groups is as good as no groups",
     {"group mask", "M8"},
     arrange_all_groups,
     all_groups},
    {"P15",
     "selected_groups",
     {Component::gate},
     PropertyClass::exact,
     "experts come from n_limited_groups groups at most",
     {"group mask", "O2"},
     arrange_selected_groups,
     selected_groups},
    {"P15",
     "group_selection",
     {Component::gate},
     PropertyClass::exact,
     "groups are kept by the score of their best one or two experts",
     {"M8", "O2"},
     arrange_group_selection,
     group_selection},
    {"P15",
     "zero_beats_negative",
     {Component::gate},
     PropertyClass::exact,
     "a discarded group scores 0 where the documented system multiplies, minus infinity where it does not",
     {"O2"},
     arrange_negative_groups,
     zero_beats_negative},
    {"P15",
     "ignored_groups",
     {Component::gate},
     PropertyClass::exact,
     "softmax and sqrtsoftplus ignore groups",
     {"group mask"},
     arrange_ignored,
     ignored_groups},
};

}  // namespace

std::span<const Property> router_group_properties() { return kRouterGroupProperties; }

}  // namespace moeref
