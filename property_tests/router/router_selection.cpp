// Which experts are selected.
#include <algorithm>
#include <cmath>

#include "moeref/verdict.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void all_negative(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Matrix z = logits_of(call);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    compared +=
        expect_selected(a, t, largest(z, t, d.k), "all logits are negative: the largest are still selected");
  require_some(compared, d.T);
}

void arrange_negative_logits(Descriptor& d) {
  arrange_plain(d);
  d.logits = Logits::negative;
}

/// One token's logit of one expert raised; the gate's weight is the identity.
Call raised(const Call& call, std::int64_t token, std::int64_t expert, double by) {
  Call out = call;
  Tensor& x = out.tensors.at("inputs/x");
  const std::int64_t at = token * x.extent(1) + expert;
  x.set(at, x[at] + by);
  return out;
}

void monotone(Implementation& impl, const Descriptor& d) {
  if (d.T == 0) return;
  const Call call = make_call(d);
  const Answer a(impl, call);
  const std::int64_t token = static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.T));
  if (!a.decided(token)) throw Discarded("the token's selection is not decided");
  const std::vector<std::int64_t> selected = ids_of(a, token);
  const auto keeps = [&](std::int64_t expert, double by, std::string_view text) {
    const Answer b(impl, raised(call, token, expert, by));
    if (!b.decided(token)) return;
    const std::vector<std::int64_t> ids = ids_of(b, token);
    if (std::ranges::find(ids, expert) == ids.end())
      fail({"outputs/indices", token * d.k, 0.0, static_cast<double>(expert), 0.0, std::string(text)});
  };
  keeps(selected[d.seed % selected.size()], 0.5,
        "the logit of a selected expert was raised: it must stay selected");
  if (d.has_correction() || d.groups > 1) return;
  for (std::int64_t e = 0; e < d.E; ++e)
    if (std::ranges::find(selected, e) == selected.end())
      return keeps(e, 8.0, "the logit of an expert was raised above all others: it must be selected");
}

void arrange_monotone(Descriptor& d) {
  d.logits = Logits::levels;
  // With softmax, other experts' scores fall, and a group's score with them; with discarded groups at zero, a
  // negative biased score is better left in a discarded group.
  if (d.score == ScoreFunc::softmax_with_bias) d.groups = d.limited = 1;
  if (moe_config(d).discards_to_zero() && d.groups > 1 && d.has_correction())
    d.correction = Correction::equal;
}

void score_map(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Matrix z = logits_of(call);
  std::int64_t compared = 0;
  for (const auto& [score, before] : {std::pair{"softmax", false},
                                      {"softmax", true},
                                      {"sigmoid", false},
                                      {"sigmoid_with_bias", false},
                                      {"softmax_with_bias", false},
                                      {"sqrtsoftplus", false}}) {
    const Answer a(impl, with_config(call, {{"score_func", score}, {"softmax_before_topk", before}}));
    for (std::int64_t t = 0; t < d.T; ++t)
      compared +=
          expect_selected(a, t, largest(z, t, d.k),
                          std::string(score) + " grows with the logit: the largest logits are selected");
  }
  require_some(compared, d.T);
}

void arrange_score_map(Descriptor& d) {
  arrange_plain(d);
  if (d.logits != Logits::rough) d.logits = Logits::levels;
  d.score = ScoreFunc::softmax;
}

/// Three experts of each token with logits 40, 50 and 60 in an order of the seed, all others with 0.
struct Saturated {
  Call call;
  std::vector<std::vector<std::int64_t>> by_logit;  ///< experts of a token, that with logit 60 first
};
Saturated saturated(const Descriptor& d) {
  Saturated out{make_call(d), {}};
  Tensor& x = out.call.tensors.at("inputs/x");
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::vector<std::int64_t> experts = permutation(d.seed + static_cast<std::uint64_t>(t), d.E);
    experts.resize(3);
    for (std::int64_t e = 0; e < d.E; ++e) {
      const auto rank = std::ranges::find(experts, e) - experts.begin();
      x.set(t * d.D + e, rank < 3 ? 60.0 - 10.0 * static_cast<double>(rank) : 0.0);
    }
    out.by_logit.push_back(std::move(experts));
  }
  return out;
}

void saturation(Implementation& impl, const Descriptor& d) {
  const Saturated s = saturated(d);
  const Answer a(impl, s.call);
  const bool saturates = d.score == ScoreFunc::sigmoid || d.score == ScoreFunc::sigmoid_with_bias;
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<std::int64_t>& experts = s.by_logit[static_cast<std::size_t>(t)];
    for (const Slot& slot : slots_of(a, t)) {
      const auto rank = std::ranges::find(experts, slot.expert) - experts.begin();
      if (rank >= (saturates ? 3 : d.k))
        fail({"outputs/indices", slot.index, static_cast<double>(slot.expert),
              static_cast<double>(experts[0]), 0.0,
              "logits 40, 50 and 60 among zeros: another expert was selected"});
    }
  }
}

void saturated_ties(Implementation& impl, const Descriptor& d) {
  const Saturated s = saturated(d);
  const Answer a(impl, s.call);
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::vector<std::int64_t> lowest = s.by_logit[static_cast<std::size_t>(t)];
    std::ranges::sort(lowest);
    const std::vector<Slot> slots = slots_of(a, t);
    for (std::size_t j = 0; j < slots.size(); ++j)
      expect_equal("outputs/indices", slots[j].index, static_cast<double>(slots[j].expert),
                   static_cast<double>(lowest[j]),
                   "sigmoids of 40, 50 and 60 are all 1: the lowest ids are selected");
  }
}

void arrange_saturation(Descriptor& d) {
  arrange_plain(d);
  d.E = std::max<std::int64_t>(d.E, 4);
  d.k = std::min<std::int64_t>(d.k, 2);
  d.logits = Logits::levels;
  d.router_bias = false;
  d.widen();
  d.precision.reset();
}

void arrange_saturated_ties(Descriptor& d) {
  arrange_saturation(d);
  if (d.score != ScoreFunc::sigmoid_with_bias) d.score = ScoreFunc::sigmoid;
}

void nesting(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call), b(impl, with_config(call, {{"n_activated_experts", d.k + 1}}));
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) {
    if (!a.decided(t)) continue;
    ++compared;
    const std::vector<std::int64_t> more = ids_of(b, t);
    for (const Slot& slot : slots_of(a, t))
      if (std::ranges::find(more, slot.expert) == more.end())
        fail({"outputs/indices", slot.index, static_cast<double>(slot.expert), 0.0, 0.0,
              "selected among k, but not among k + 1"});
  }
  require_some(compared, d.T);
}

void arrange_nesting(Descriptor& d) {
  d.E = std::max<std::int64_t>(d.E, 2);
  // Its groups change with k.
  if (d.config.group_score == GroupScore::topk_over_g_sum) d.config.group_score = GroupScore::largest;
  if (d.E % d.groups != 0 || d.limited * (d.E / d.groups) < 2) d.groups = d.limited = 1;
  const std::int64_t most = d.grouped() ? d.limited * (d.E / d.groups) : d.E;
  d.k = std::min(d.k, most - 1);
  d.replay = false;
}

/// The correction bias of one expert set to a value that outweighs every score.
void forced_expert(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const auto expert = static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.E));
  Call up = call, down = call;
  up.tensors.at("params/e_score_correction_bias").set(expert, 1000.0);
  down.tensors.at("params/e_score_correction_bias").set(expert, -1000.0);
  const Answer forced(impl, up), removed(impl, down);
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<std::int64_t> with = ids_of(forced, t), without = ids_of(removed, t);
    const auto at = static_cast<double>(expert);
    if (std::ranges::find(with, expert) == with.end())
      fail({"outputs/indices", t * d.k, 0.0, at, 0.0, "an expert with a bias of 1000 was not selected"});
    if (std::ranges::find(without, expert) != without.end())
      fail({"outputs/indices", t * d.k, at, 0.0, 0.0, "an expert with a bias of -1000 was selected"});
  }
  double real = 0.0;
  const Tensor* mask = find(call.tensors, "inputs/token_mask");
  for (std::int64_t t = 0; t < d.T; ++t) real += mask ? (*mask)[t] : 1.0;
  expect_equal("outputs/expert_load", expert, forced.at("outputs/expert_load", expert), real,
               "an expert with a bias of 1000 gets every real token");
  expect_equal("outputs/expert_load", expert, removed.at("outputs/expert_load", expert), 0.0,
               "an expert with a bias of -1000 gets no token");
}

void arrange_forced(Descriptor& d) {
  arrange_nesting(d);
  if (!takes_correction(d.score)) d.score = ScoreFunc::sigmoid;
  if (d.correction != Correction::zero) d.correction = Correction::equal;
  arrange_nesting(d);  // whether groups count depends on the score function
}

void lowest_ties(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Matrix z = logits_of(call);
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<std::int64_t> expected = largest(z, t, d.k);
    const std::vector<Slot> slots = slots_of(a, t);
    for (std::size_t j = 0; j < slots.size(); ++j)
      expect_equal("outputs/indices", slots[j].index, static_cast<double>(slots[j].expert),
                   static_cast<double>(expected[j]), "among equal scores the lowest ids are selected");
  }
}

void arrange_ties(Descriptor& d) {
  if (d.logits != Logits::equal) d.logits = Logits::ties;
  if (d.correction == Correction::normal || d.correction == Correction::negative)
    d.correction = Correction::equal;
  // Sums of different pairs of scores may be close without being equal.
  if (d.logits != Logits::equal) d.groups = d.limited = 1;
}

void verdict(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, full_call(impl, d));
  JudgeOptions options;
  // Scores of large logits saturate, and differ in nothing but rounding: any choice may be explainable.
  if (d.logits == Logits::large) options.ambiguity_ceiling = 1.0;
  const CaseVerdict judged = judge(a.call(), a.results(), options);
  if (const TensorVerdict* bad = judged.first_failure())
    fail({bad->tensor, bad->index, bad->value, bad->reference, bad->bound, bad->finding});
}

const Property kRouterSelectionProperties[] = {
    {"P4",
     "all_negative_logits",
     {Component::gate},
     PropertyClass::exact,
     "of negative logits the largest are selected",
     {"O5", "maximum that starts at 0"},
     arrange_negative_logits,
     all_negative},
    {"P5",
     "monotone_selection",
     {Component::gate},
     PropertyClass::exact,
     "raising a selected expert's logit keeps it, raising another's far enough selects it",
     {"O5", "sort bugs"},
     arrange_monotone,
     monotone},
    {"P6",
     "monotone_score_map",
     {Component::gate},
     PropertyClass::exact,
     "without a bias every score function selects the largest logits",
     {"A10", "A38", "A41"},
     arrange_score_map,
     score_map},
    {"P7",
     "saturation",
     {Component::gate},
     PropertyClass::exact,
     "logits of 40, 50 and 60 are told apart by softmax and sqrtsoftplus, and from 0 by sigmoid",
     {"A41", "O6"},
     arrange_saturation,
     saturation},
    {"P7",
     "saturated_ties",
     {Component::gate},
     PropertyClass::exact,
     "sigmoids that are all 1 are ties, with any logits",
     {"A41", "O6"},
     arrange_saturated_ties,
     saturated_ties,
     Passes::forward,
     Needs::lowest_id_first},
    {"P8",
     "nested_selection",
     {Component::gate},
     PropertyClass::exact,
     "the k selected experts are among the k + 1 selected",
     {"partial sort", "O5"},
     arrange_nesting,
     nesting},
    {"P14",
     "forced_expert",
     {Component::gate},
     PropertyClass::exact,
     "a bias of 1000 selects an expert for every token, a bias of -1000 for none",
     {"sign of the bias", "A18", "M7"},
     arrange_forced,
     forced_expert},
    {"P17",
     "lowest_id_ties",
     {Component::gate},
     PropertyClass::exact,
     "among equal scores the lowest ids are selected",
     {"A41", "unstable sort"},
     arrange_ties,
     lowest_ties,
     Passes::forward,
     Needs::lowest_id_first},
    {"P18",
     "routing_verdict",
     {Component::gate},
     PropertyClass::bounded,
     "the whole call passes the verdict: certified or explainable selections, values within their bounds",
     {"every selection bug"},
     nullptr,
     verdict,
     Passes::either},
};

}  // namespace

std::span<const Property> router_selection_properties() { return kRouterSelectionProperties; }

}  // namespace moeref
