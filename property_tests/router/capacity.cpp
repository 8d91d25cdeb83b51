// Experts of limited capacity (SPEC 10): which slots they take, and what becomes of those that are dropped.
#include <algorithm>
#include <cmath>
#include <vector>

#include "moeref/verdict.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "reference_cpu/call/ranks.hpp"

namespace moeref {
namespace {

/// Few experts and tokens enough that some are full.
void arrange_capacity(Descriptor& d) {
  MoEConfig& c = d.config;
  if (c.expert_capacity > 0) c.capacity_factor = 0.0;
  if (c.expert_capacity == 0 && c.capacity_factor == 0.0) {
    if (d.seed % 2 == 0)
      c.expert_capacity = 1 + static_cast<std::int64_t>(d.seed / 2 % 3);
    else
      c.capacity_factor = d.seed / 2 % 2 == 0 ? 0.5 : 0.75;
  }
  if (c.capacity_order == CapacityOrder::token)
    c.capacity_order = static_cast<CapacityOrder>(d.seed / 4 % kCapacityOrders.size());
  d.groups = d.limited = 1;
  d.E = std::clamp<std::int64_t>(d.E, 2, 8);
  d.k = std::min<std::int64_t>(d.k, d.E);
  d.T = std::clamp<std::int64_t>(d.T, 6, 64);
  d.biased_weights = d.frozen = false;
  if (d.logits != Logits::rough) d.logits = Logits::levels;
}

/// Of two choices or more that are divided.
void arrange_after_dropping(Descriptor& d) {
  arrange_capacity(d);
  d.config.norm_after_dropping = d.norm = true;
  d.k = std::max<std::int64_t>(d.k, 2);
  d.E = std::max(d.E, d.k);
}

/// C of so many tokens of one rank.
std::int64_t capacity_of(const MoEConfig& c, std::int64_t tokens) {
  if (c.expert_capacity > 0) return c.expert_capacity;
  const double slots = static_cast<double>(tokens * c.n_activated_experts);
  const auto share = static_cast<std::int64_t>(
      std::ceil(slots / static_cast<double>(c.n_routed_experts) * c.capacity_factor));
  return std::max(share, c.min_capacity);
}

/// The same call with room for every slot, and with weights as they are before any slot is dropped.
Call before_dropping(Call call) {
  if (parse_moe_config(call.config).divides_after_dropping()) call.config["norm_topk_prob"] = false;
  for (const char* limit :
       {"capacity_factor", "expert_capacity", "min_capacity", "capacity_order", "norm_after_dropping"})
    call.config.erase(limit);
  return call;
}

bool is_dropped(const Answer& a, std::int64_t slot) {
  return a.at("outputs/dispatched_indices", slot) != a.at("outputs/indices", slot);
}

/// The slots of an expert among tokens [first, last), in the order in which it takes them where that is
/// exact.
std::vector<std::int64_t> line_of(const Answer& a, const MoEConfig& c, std::int64_t expert,
                                  std::int64_t first, std::int64_t last) {
  std::vector<std::int64_t> out;
  const std::int64_t k = c.n_activated_experts;
  for (std::int64_t i = 0; i < (last - first) * k; ++i) {
    const bool by_choice = c.capacity_order == CapacityOrder::choice;
    const std::int64_t token = first + (by_choice ? i % (last - first) : i / k),
                       place = by_choice ? i / (last - first) : i % k, slot = token * k + place;
    if (is_real(a.call(), token) && a.at("outputs/indices", slot) == static_cast<double>(expert))
      out.push_back(slot);
  }
  return out;
}

/// Every kept slot weighs as much as every dropped one, within the bounds of both.
void expect_heaviest_kept(const Answer& a, const Answer& before, const std::vector<std::int64_t>& line) {
  std::int64_t least = -1, most = -1;
  const auto weight = [&](std::int64_t slot, double sign) {
    return before.at("outputs/weights", slot) + sign * before.bound("outputs/weights", slot);
  };
  for (const std::int64_t slot : line) {
    if (is_dropped(a, slot)) {
      if (most < 0 || weight(slot, -1.0) > weight(most, -1.0)) most = slot;
    } else if (least < 0 || weight(slot, 1.0) < weight(least, 1.0)) {
      least = slot;
    }
  }
  if (least >= 0 && most >= 0 && weight(least, 1.0) < weight(most, -1.0))
    fail({"outputs/dispatched_indices", most, a.at("outputs/dispatched_indices", most),
          a.at("outputs/indices", most), 0.0, "a full expert keeps the slots with the largest weights"});
}

void capacity_order(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const MoEConfig c = parse_moe_config(call.config);
  const ParallelOptions ranks = parse_call_options(call.options).parallel;
  const Answer a(impl, call), before(impl, before_dropping(call));
  if (a["outputs/indices"].doubles() != before["outputs/indices"].doubles())
    throw Discarded("two answers choose differently");
  const double null = static_cast<double>(c.null_id());
  std::int64_t dropped = 0;
  for (std::int64_t slot = 0; slot < d.T * d.k; ++slot)
    if (is_dropped(a, slot)) {
      ++dropped;
      const double want = is_real(call, slot / d.k) ? null : a.at("outputs/indices", slot);
      expect_equal("outputs/dispatched_indices", slot, a.at("outputs/dispatched_indices", slot), want,
                   "a slot is dropped, or what was selected, and that of a masked token always the latter");
    }
  const auto offsets = rank_offsets(ranks.size(), ranks.tokens_per_rank, d.T);
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r)
    for (std::int64_t e = 0; e < d.E; ++e) {
      const std::vector<std::int64_t> line = line_of(a, c, e, offsets[r], offsets[r + 1]);
      const std::int64_t capacity = capacity_of(c, offsets[r + 1] - offsets[r]);
      const bool exact = c.capacity_order != CapacityOrder::weight;
      std::int64_t kept = 0;
      for (std::size_t i = 0; i < line.size(); ++i) {
        kept += !is_dropped(a, line[i]);
        const double want = static_cast<std::int64_t>(i) < capacity ? static_cast<double>(e) : null;
        if (exact)
          expect_equal("outputs/dispatched_indices", line[i], a.at("outputs/dispatched_indices", line[i]),
                       want, "an expert takes the first slots, as capacity_order says, until it is full");
      }
      if (line.empty() || exact) continue;
      expect_equal("outputs/dispatched_indices", line[0], static_cast<double>(kept),
                   static_cast<double>(std::min(capacity, std::ssize(line))),
                   "an expert takes as many slots as it has room for");
      expect_heaviest_kept(a, before, line);
    }
  if (dropped == 0) throw Discarded("no expert is full");
}

/// The call with another cotangent where a slot is dropped.
Call with_cotangent_of_dropped(const Call& call, const Answer& a, double value) {
  Call out = call;
  Tensor& dw = out.tensors.at("cotangents/weights");
  for (std::int64_t slot = 0; slot < dw.size(); ++slot)
    if (is_dropped(a, slot)) dw.set(slot, value);
  return out;
}

void expect_same_gradients(const Answer& a, const Answer& b, std::string_view text) {
  for (const auto& [name, tensor] : a.results())
    if (name.starts_with("grads/")) expect_same(a, b, name, text);
}

void expect_verdict(const Answer& a) {
  JudgeOptions options;
  options.ambiguity_ceiling = 1.0;
  const CaseVerdict judged = judge(a.call(), a.results(), options);
  if (const TensorVerdict* bad = judged.first_failure())
    fail({bad->tensor, bad->index, bad->value, bad->reference, bad->bound, bad->finding});
}

void dropped_slots(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const MoEConfig c = parse_moe_config(call.config);
  const Answer a(impl, call), before(impl, before_dropping(call));
  if (a["outputs/indices"].doubles() != before["outputs/indices"].doubles())
    throw Discarded("two answers choose differently");
  std::int64_t dropped = 0;
  for (std::int64_t slot = 0; slot < d.T * d.k; ++slot) {
    const double w = a.at("outputs/weights", slot);
    if (is_dropped(a, slot)) {
      ++dropped;
      expect_equal("outputs/weights", slot, w, 0.0, "a dropped slot has weight 0");
    } else if (!c.divides_after_dropping()) {
      expect_near("outputs/weights", slot, w, before.at("outputs/weights", slot),
                  a.bound("outputs/weights", slot) + before.bound("outputs/weights", slot),
                  "a slot that is kept weighs what it did");
    }
  }
  if (dropped == 0) throw Discarded("no expert is full");
  for (const char* name : {"outputs/expert_load", "outputs/aux_loss"})
    if (a.has(name)) expect_same(a, before, name, "load and loss count the slots as selected");
  expect_verdict(a);
  if (!call.backward) return;
  const Answer loud(impl, with_cotangent_of_dropped(call, a, 1024.0));
  expect_same_gradients(a, loud, "what reaches the weight of a dropped slot changes nothing");
  if (c.divides_after_dropping()) return;
  Call silent = with_cotangent_of_dropped(before.call(), a, 0.0);
  expect_same_gradients(a, Answer(impl, silent), "a dropped slot has no gradient, the others theirs");
}

/// w / sum over the kept slots of w.
void divided_after_dropping(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const MoEConfig c = parse_moe_config(call.config);
  const Answer a(impl, call);
  Call undivided = before_dropping(call);
  undivided.config["route_scale"] = 1.0;
  const Matrix weighed = weighed_scores_of(undivided);
  std::int64_t dropped = 0;
  for (std::int64_t t = 0; t < d.T; ++t) {
    const std::vector<double> w = weights_of(undivided, weighed, t, ids_of(a, t));
    double sum = 0.0;
    for (std::int64_t j = 0; j < d.k; ++j)
      if (!is_dropped(a, t * d.k + j)) sum += w[static_cast<std::size_t>(j)];
    for (std::int64_t j = 0; j < d.k; ++j) {
      const std::int64_t slot = t * d.k + j;
      const bool gone = is_dropped(a, slot);
      dropped += gone;
      const double want = gone ? 0.0 : w[static_cast<std::size_t>(j)] * c.route_scale / divisor_of(c, sum);
      expect_near("outputs/weights", slot, a.at("outputs/weights", slot), want,
                  a.bound("outputs/weights", slot) + 1e-11 * std::abs(want),
                  "weights are divided by the sum over the slots that are kept");
    }
  }
  if (dropped == 0) throw Discarded("no expert is full");
  expect_verdict(a);
}

/// Each expert takes its best tokens by S, which is a softmax over experts or a sigmoid, in the column that
/// the token has for it.
void expert_choice(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const ParallelOptions ranks = parse_call_options(call.options).parallel;
  const std::int64_t capacity = parse_moe_config(call.config).expert_capacity;
  const Answer a(impl, call), before(impl, before_dropping(call));
  const Matrix s = scores_of(call);
  const auto slot_of = [&](std::int64_t token, std::int64_t expert) {
    const std::vector<std::int64_t> ids = ids_of(a, token);
    const auto at = std::ranges::find(ids, expert);
    if (at == ids.end())
      fail({"outputs/indices", token * d.k, 0.0, 0.0, 0.0,
            "with k = E every token has a slot of every expert"});
    return token * d.k + (at - ids.begin());
  };
  const auto offsets = rank_offsets(ranks.size(), ranks.tokens_per_rank, d.T);
  std::int64_t dropped = 0;
  for (std::size_t r = 0; r + 1 < offsets.size(); ++r)
    for (std::int64_t e = 0; e < d.E; ++e) {
      std::int64_t taken = 0, real = 0, at = -1;
      double least = INFINITY, most = -INFINITY;
      for (std::int64_t t = offsets[r]; t < offsets[r + 1]; ++t) {
        if (!is_real(call, t)) continue;
        const std::int64_t slot = slot_of(t, e);
        const bool gone = is_dropped(a, slot);
        const double score = s.at(t, e), open = before.bound("outputs/weights", slot) / std::abs(d.scale);
        const double want = gone ? 0.0 : score * d.scale;
        expect_near("outputs/weights", slot, a.at("outputs/weights", slot), want,
                    gone ? 0.0 : a.bound("outputs/weights", slot) + 1e-11 * std::abs(want),
                    "a chosen token weighs its own score, not one among tokens");
        ++real;
        taken += !gone;
        if (gone && score - open > most) most = score - open, at = slot;
        if (!gone) least = std::min(least, score + open);
      }
      dropped += real - taken;
      if (real > 0)
        expect_equal("outputs/dispatched_indices", std::max<std::int64_t>(at, 0), static_cast<double>(taken),
                     static_cast<double>(std::min(capacity, real)), "an expert takes C tokens of a rank");
      if (least < most)
        fail({"outputs/dispatched_indices", at, a.at("outputs/dispatched_indices", at),
              static_cast<double>(e), 0.0, "an expert takes the tokens that score highest with it"});
    }
  if (dropped == 0) throw Discarded("every expert has room for every token");
}

/// All experts for every token, and as many tokens for every expert as it has room for.
void arrange_expert_choice(Descriptor& d) {
  MoEConfig& c = d.config;
  c.capacity_factor = 0.0;
  c.expert_capacity = std::clamp<std::int64_t>(c.expert_capacity, 1, 3);
  c.capacity_order = CapacityOrder::weight;
  c.null_slots = NullSlots::given;
  c.per_expert_scale = c.norm_after_dropping = false;
  d.E = std::clamp<std::int64_t>(d.E, 2, 8);
  d.k = d.E;
  d.T = std::clamp<std::int64_t>(d.T, 6, 32);
  d.groups = d.limited = 1;
  d.before_topk = true;
  d.norm = d.biased_weights = d.frozen = d.replay = false;
  if (d.scale <= 0.0) d.scale = 1.0;
  if (d.logits != Logits::rough) d.logits = Logits::levels;
}

const Property kCapacityProperties[] = {
    {"C14",
     "expert_choice",
     {Component::gate},
     PropertyClass::bounded,
     "with k = E and slots taken by weight, each expert takes the C tokens that score highest with it",
     {"softmax over tokens", "tokens ordered by logits"},
     arrange_expert_choice,
     expert_choice,
     Passes::forward},
    {"C14",
     "capacity_order",
     {Component::gate},
     PropertyClass::bounded,
     "an expert takes as many slots as it has room for, in the order that capacity_order says",
     {"rounding of the capacity", "padding takes room", "order of slots"},
     arrange_capacity,
     capacity_order},
    {"C14",
     "dropped_slots",
     {Component::gate},
     PropertyClass::bounded,
     "a dropped slot weighs nothing and has no gradient; the other slots, load and loss are as without a "
     "limit",
     {"load after dropping", "gradient of a dropped slot"},
     arrange_capacity,
     dropped_slots,
     Passes::either},
    {"C14",
     "divided_after_dropping",
     {Component::gate},
     PropertyClass::bounded,
     "under norm_after_dropping weights are divided by the sum over the slots that are kept",
     {"normalised before dropping"},
     arrange_after_dropping,
     divided_after_dropping,
     Passes::either},
};

}  // namespace

std::span<const Property> capacity_properties() { return kCapacityProperties; }

}  // namespace moeref
