// The weights of the selected experts.
#include <algorithm>
#include <cmath>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void every_expert(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<Slot> slots = slots_of(a, t);
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_equal("outputs/indices", slots[static_cast<std::size_t>(e)].index,
                   static_cast<double>(slots[static_cast<std::size_t>(e)].expert), static_cast<double>(e),
                   "k = E selects every expert");
  }
  expect_weights(a, "k = E: the weights are all scores");
}

void arrange_every_expert(Descriptor& d) {
  d.groups = d.limited = 1;
  d.k = d.E;
}

void finite_weights(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<Slot> slots = slots_of(a, t);  // which checks range and repetition
    expect_equal("outputs/indices", t * a.slots(), static_cast<double>(slots.size()),
                 static_cast<double>(d.k), "slots per token");
    for (const Slot& s : slots)
      if (!std::isfinite(s.weight) || s.weight < 0.0)
        fail({"outputs/weights", s.index, s.weight, 0.0, 0.0, "a weight that is negative or not finite"});
  }
}

void arrange_well_formed(Descriptor& d) { d.biased_weights = false; }

void weight_sums(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const bool after = facts(d.score).selects_by_logits && !d.before_topk;
  const MoEConfig c = moe_config(d);
  const bool exact = after || c.normalises_weights();
  const Matrix scores = weighed_scores_of(a.call());
  for (std::int64_t t = 0; t < d.T; ++t) {
    double sum = 0.0, bound = 1e-11 * d.scale, selected = 0.0;
    for (const Slot& s : slots_of(a, t)) {
      sum += s.weight;
      bound += s.bound;
      selected += scores.at(t, s.expert);
    }
    // What guards the division shows beside scores as small as it is.
    const double share = c.normalises_weights()
                             ? (after ? 1.0 / divisor_of(c, 1.0) : selected / divisor_of(c, selected))
                             : 1.0;
    if (exact)
      expect_near("outputs/weights", t * d.k, sum, share * d.scale, bound,
                  "the sum of a token's weights is the scale");
    else if (sum > d.scale + bound)
      fail({"outputs/weights", t * d.k, sum, d.scale, bound,
            "softmax over all experts: k of its values sum to 1 at most"});
  }
}

void arrange_sums(Descriptor& d) {
  d.biased_weights = false;
  if (d.score != ScoreFunc::softmax && d.score != ScoreFunc::softmax_with_bias) {
    d.norm = true;
    d.E = std::max<std::int64_t>(d.E, 2);
    d.k = std::max<std::int64_t>(d.k, 2);
    if (d.limited * (d.E / d.groups) < 2) d.groups = d.limited = 1;
  }
}

/// One logit far above all others, wherever it is: its expert is selected, and nothing overflows.
void lone_large_logit(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  Tensor& x = call.tensors.at("inputs/x");
  const auto large = [&](std::int64_t t) {
    return static_cast<std::int64_t>((d.seed + static_cast<std::uint64_t>(t) * 7) %
                                     static_cast<std::uint64_t>(d.E));
  };
  for (std::int64_t t = 0; t < d.T; ++t) x.set(t * d.D + large(t), x[t * d.D + large(t)] + 1000.0);
  const Answer a(impl, call);
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<std::int64_t> ids = ids_of(a, t);
    if (std::ranges::find(ids, large(t)) == ids.end())
      fail({"outputs/indices", t * d.k, static_cast<double>(ids.front()), static_cast<double>(large(t)), 0.0,
            "the one logit of 1000 was not selected"});
  }
  expect_weights(a, "one logit is 1000 above the others");
}

void arrange_lone_logit(Descriptor& d) {
  if (d.score != ScoreFunc::softmax_with_bias) d.score = ScoreFunc::softmax;
  d.widen();  // 1000 + 1/16 is a number in these
  d.precision.reset();
  d.logits = Logits::levels;
  d.groups = d.limited = 1;
  d.correction = Correction::none;
  d.factor = 0.0;
  d.biased_weights = false;
  d.T = std::max<std::int64_t>(d.T, 1);
  d.E = std::max<std::int64_t>(d.E, 17 + static_cast<std::int64_t>(d.seed % 24));
}

void bias_invariance(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call moved = call;
  Tensor& bias = moved.tensors.at("params/e_score_correction_bias");
  for (std::int64_t e = 0; e < d.E; ++e) bias.set(e, bias[e] + 0.5);
  const Answer a(impl, call), b(impl, moved);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    compared += expect_same_routing(b, t, a, t, "1/2 was added to every expert's correction bias");
  require_some(compared, d.T);
}

void arrange_bias(Descriptor& d) {
  if (!takes_correction(d.score)) d.score = ScoreFunc::sigmoid;
  if (!d.has_correction()) d.correction = Correction::normal;
  d.biased_weights = false;
}

void arrange_bias_invariance(Descriptor& d) {
  arrange_bias(d);
  // Scores of discarded groups become 0, which does not move with the bias: with biased scores above 0 it
  // never counts.
  const bool negative = d.correction == Correction::normal || d.correction == Correction::negative;
  if (moe_config(d).discards_to_zero() && d.groups > 1 && negative) d.correction = Correction::equal;
}

void gathered_weights(Implementation& impl, const Descriptor& d) {
  expect_weights(Answer(impl, make_call(d)),
                 "weights are scores without the correction bias, of the selected experts");
}

void biased_weights(Implementation& impl, const Descriptor& d) {
  expect_weights(Answer(impl, make_call(d)),
                 "weights are scores with the correction bias, of the selected experts");
}

void arrange_biased_weights(Descriptor& d) {
  d.score = ScoreFunc::sigmoid;
  if (!d.has_correction()) d.correction = Correction::normal;
  d.biased_weights = true;
  // Sums of biased scores may cancel; above 0 they do not.
  if (d.norm && d.correction != Correction::equal) d.correction = Correction::equal;
}

/// The slot of each of b's slots in a, by expert: slots may come in another order.
std::vector<std::int64_t> matching_slots(const Answer& b, const Answer& a, std::string_view text) {
  std::vector<std::int64_t> out(static_cast<std::size_t>(a.tokens() * a.slots()));
  for (std::int64_t t = 0; t < a.tokens(); ++t) {
    const std::vector<Slot> left = slots_of(b, t), right = slots_of(a, t);
    for (std::size_t j = 0; j < left.size(); ++j) {
      expect_equal("outputs/indices", left[j].index, static_cast<double>(left[j].expert),
                   static_cast<double>(right[j].expert), text);
      out[static_cast<std::size_t>(left[j].index)] = right[j].index;
    }
  }
  return out;
}

/// The call on the answer's own experts. Where their slots come back in another order it is made once more,
/// with each expert's cotangent in the expert's slot.
Answer replayed(Implementation& impl, Call call, const Answer& own, std::string_view text) {
  call.config["enable_routing_replay"] = true;
  call.tensors["inputs/replay_indices"] = own["outputs/indices"];
  Answer first(impl, call);
  const std::vector<std::int64_t> from = matching_slots(first, own, text);
  if (!call.backward || std::ranges::is_sorted(from)) return first;
  Tensor& cotangent = call.tensors.at("cotangents/weights");
  const Tensor before = cotangent;
  for (std::int64_t i = 0; i < cotangent.size(); ++i)
    cotangent.set(i, before[from[static_cast<std::size_t>(i)]]);
  return {impl, call};
}

void replay_own(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  constexpr std::string_view text = "its own experts were replayed";
  const Answer b = replayed(impl, call, a, text);
  const std::vector<std::int64_t> from = matching_slots(b, a, text);
  for (std::int64_t i = 0; i < d.T * d.k; ++i) {
    const std::int64_t j = from[static_cast<std::size_t>(i)];
    if (b.at("outputs/weights", i) != a.at("outputs/weights", j))
      expect_near("outputs/weights", i, b.at("outputs/weights", i), a.at("outputs/weights", j),
                  b.bound("outputs/weights", i) + a.bound("outputs/weights", j), text);
  }
  expect_identical(a, b, "outputs/expert_load", text);
  for (const auto& [name, tensor] : a.results())
    if (name == "outputs/aux_loss" || name.starts_with("grads/")) expect_same(b, a, name, text);
}

void replay_other(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  expect_identical(a, Answer(impl, call), "outputs/indices", "the same call again");
  const Tensor& given = call.tensors.at("inputs/replay_indices");
  for (std::int64_t t = 0; t < d.T; ++t) {
    std::vector<std::int64_t> want;
    for (std::int64_t j = 0; j < d.k; ++j) want.push_back(static_cast<std::int64_t>(given[t * d.k + j]));
    std::ranges::sort(want);
    const std::vector<Slot> slots = slots_of(a, t);
    for (std::size_t j = 0; j < slots.size(); ++j)
      expect_equal("outputs/indices", slots[j].index, static_cast<double>(slots[j].expert),
                   static_cast<double>(want[j]), "replayed experts come back");
  }
  expect_weights(a, "other experts were replayed: weights are gathered from live scores");
  expect_gradient_of_x(a, d, "other experts were replayed: the gradient flows through their live scores");
}

void arrange_replay_other(Descriptor& d) {
  d.replay = true;
  if (d.score != ScoreFunc::softmax) d.score = ScoreFunc::sigmoid;
  d.before_topk = true;
  d.norm = d.biased_weights = false;
  d.aux = 0.0;
  if (d.ids == Ids::duplicates || d.ids == Ids::absent_slots) d.ids = Ids::distinct;
}

const Property kRouterWeightProperties[] = {
    {"P9",
     "every_expert",
     {Component::gate},
     PropertyClass::bounded,
     "k = E selects every expert, with all scores as weights",
     {"O22", "cut-off"},
     arrange_every_expert,
     every_expert},
    {"P10",
     "well_formed_routing",
     {Component::gate},
     PropertyClass::exact,
     "k different experts in range, with finite weights that are not negative",
     {"O3", "O4", "M32"},
     arrange_well_formed,
     finite_weights},
    {"P11",
     "weight_sums",
     {Component::gate},
     PropertyClass::bounded,
     "normalised weights sum to route_scale, softmax weights to that at most",
     {"A37", "O6", "O7", "O8"},
     arrange_sums,
     weight_sums},
    {"P4",
     "lone_large_logit",
     {Component::gate},
     PropertyClass::bounded,
     "a softmax with one logit of 1000 is finite and right, at whichever of 17 experts or more it is",
     {"maximum over 16 lanes", "maximum not subtracted"},
     arrange_lone_logit,
     lone_large_logit},
    {"P12",
     "bias_invariance",
     {Component::gate},
     PropertyClass::exact,
     "a number added to every correction bias changes nothing",
     {"O1", "M7"},
     arrange_bias_invariance,
     bias_invariance},
    {"P13",
     "unbiased_weights",
     {Component::gate},
     PropertyClass::bounded,
     "the correction bias changes who is selected, never a weight",
     {"O1", "M7", "O3", "O30"},
     arrange_bias,
     gathered_weights},
    {"P13",
     "biased_weights",
     {Component::gate},
     PropertyClass::bounded,
     "with router_weight_uses_score_correction_bias the weights are biased scores",
     {"flag ignored"},
     arrange_biased_weights,
     biased_weights},
    {"P20",
     "replay_own_experts",
     {Component::gate},
     PropertyClass::bounded,
     "replaying a forward's own experts gives the same weights, load, loss and gradients",
     {"A16", "zero gather"},
     nullptr,
     replay_own,
     Passes::either},
    {"P20",
     "replay_other_experts",
     {Component::gate},
     PropertyClass::bounded,
     "other experts get weights and gradients from live scores",
     {"A16", "zero gather", "M12"},
     arrange_replay_other,
     replay_other,
     Passes::either},
};

}  // namespace

std::span<const Property> router_weight_properties() { return kRouterWeightProperties; }

}  // namespace moeref
