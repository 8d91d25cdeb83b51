// Which rows of x and which experts meet: empty experts, groups of rows, repeated and absent slots.
#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr auto poisoned = [](double) { return kNaN; };

/// Runs the call with x all NaN, so that buffers that are used again hold NaN.
void dirty_buffers(Implementation& impl, Call call) {
  Tensor& x = call.tensors.at("inputs/x");
  x = filled(x.dtype(), x.shape(), kNaN);
  const Answer ignored(impl, call);
}

void zero_token_expert(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer a(impl, call);
  const std::vector<std::int64_t> ids = live_ids(a);
  Call broken = call;
  std::vector<std::int64_t> empty;
  for (std::int64_t e = 0; e < d.E; ++e)
    if (std::ranges::find(ids, e) == ids.end()) empty.push_back(e);
  if (empty.empty()) throw Discarded("every expert has a token");
  for (const std::int64_t e : empty) change_expert(broken, e, poisoned);
  dirty_buffers(impl, call);
  const Answer b(impl, broken);
  expect_all_same(b, a, "experts without tokens hold NaN");
  for (const std::int64_t e : empty)
    for (const std::string_view tensor : kExpertTensors) {
      const std::string grad = expert_tensor(d.component, "grads", tensor);
      if (b.has(grad)) expect_zero_slice(b, grad, e, "an expert without tokens has no gradient");
    }
}

void arrange_empty(Descriptor& d) {
  arrange_replayed_routing(d);
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::min(d.k, d.E - 1);
  if (d.mask == Mask::all) return;
  // Of the other kinds some leave experts out by design, some by chance.
  const bool leaves_some = d.ids == Ids::some_empty || d.ids == Ids::skewed || d.ids == Ids::last_expert;
  if (!leaves_some || 2 * d.k > d.E || d.E < 3) d.ids = Ids::same;
}

/// One expert at a time: all other slots go nowhere.
void loop_over_experts(Implementation& impl, const Descriptor& d, bool exact) {
  const Call call = full_call(impl, d);
  const Answer whole(impl, call);
  constexpr std::string_view text = "one expert at a time, added up";
  std::deque<Answer> parts;
  Combination sum;
  for (std::int64_t e = 0; e < d.E; ++e) {
    Call one = call;
    Tensor& ids = one.tensors.at("inputs/indices");
    for (std::int64_t i = 0; i < ids.size(); ++i)
      if (ids[i] != static_cast<double>(e)) ids.set(i, -1.0);
    sum.add(parts.emplace_back(impl, one));
  }
  for (const auto& [name, tensor] : whole.results())
    if (!name.starts_with("stages/")) sum.expect(whole, name, text, exact);
}

void arrange_loop(Descriptor& d) {
  arrange_given_routing(d);
  d.E = std::min<std::int64_t>(d.E, 8);
}
void arrange_loop_exact(Descriptor& d) {
  arrange_loop(d);
  arrange_exact(d);
}

/// Rows [0, cut) and [cut, T) in two calls: rows are the same, parameter gradients add up.
void split_rows(Implementation& impl, const Descriptor& d, bool exact) {
  const Call call = full_call(impl, d);
  const auto cut = static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.T + 1));
  std::vector<std::int64_t> head, tail;
  for (std::int64_t t = 0; t < d.T; ++t) (t < cut ? head : tail).push_back(t);
  const Answer whole(impl, call), a(impl, with_tokens(call, head)), b(impl, with_tokens(call, tail));
  constexpr std::string_view text = "the rows in two calls";
  const Combination sum = Combination().add(a).add(b);
  for (const auto& [name, tensor] : whole.results()) {
    if (name.starts_with("stages/")) continue;
    const bool by_row = name == "outputs/y" || name == "grads/x" || name == "grads/weights";
    if (!by_row) sum.expect(whole, name, text, exact);
    for (std::int64_t t = 0; by_row && t < d.T; ++t)
      expect_same_row(whole, t, t < cut ? a : b, t < cut ? t : t - cut, name, text);
  }
}

void arrange_split(Descriptor& d) {
  d.batch = 1;
  d.spread = Spread::even;
}
void arrange_split_exact(Descriptor& d) {
  arrange_exact(d);
  arrange_split(d);
}

/// A token that has an expert twice has it once with the sum of the weights.
void duplicates_add(Implementation& impl, const Descriptor& d, bool exact) {
  const Call call = full_call(impl, d);
  Call merged = call;
  Tensor &ids = merged.tensors.at("inputs/indices"), &weights = merged.tensors.at("inputs/weights");
  std::vector<std::int64_t> first(static_cast<std::size_t>(ids.size()));
  std::int64_t repeated = 0;
  for (std::int64_t i = 0; i < ids.size(); ++i) {
    std::int64_t& j = first[static_cast<std::size_t>(i)] = i / d.k * d.k;
    while (ids[j] != ids[i] || ids[j] < 0.0) {
      if (j == i) break;
      ++j;
    }
    if (j == i) continue;
    weights.set(j, weights[j] + weights[i]);
    ids.set(i, -1.0);
    ++repeated;
  }
  if (repeated == 0) throw Discarded("no token has an expert twice");
  const Answer a(impl, call), b(impl, merged);
  constexpr std::string_view text = "an expert that comes twice counts with both weights";
  for (const auto& [name, tensor] : a.results()) {
    if (name.starts_with("stages/")) continue;
    if (name != "grads/weights") {
      exact ? expect_identical(a, b, name, text) : expect_same(a, b, name, text);
      continue;
    }
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const std::int64_t j = first[static_cast<std::size_t>(i)];
      if (tensor[i] != b.at(name, j))
        expect_near(name, i, tensor[i], b.at(name, j), exact ? 0.0 : a.bound(name, i) + b.bound(name, j),
                    text);
    }
  }
}

void arrange_duplicates(Descriptor& d) {
  d.ids = Ids::duplicates;
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::max<std::int64_t>(d.k, 2);
  d.T = std::max<std::int64_t>(d.T, 2);
  d.values = Values::exact;  // sums of weights are weights
  if (d.mask == Mask::all) d.mask = Mask::absent;
}
void arrange_duplicates_exact(Descriptor& d) {
  arrange_exact(d);
  arrange_duplicates(d);
}

/// Runs the call with an expert in every slot, so that buffers that are used again hold its results.
void run_full_slots(Implementation& impl, Call call, std::int64_t experts) {
  call.tensors.erase("inputs/token_mask");
  Tensor& ids = call.tensors.at("inputs/indices");
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0.0) ids.set(i, static_cast<double>(i % experts));
  const Answer ignored(impl, call);
}

/// Slots with id -1, and those of masked tokens, neither see nor touch anything.
void absent_slots(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call other = call;
  Tensor &ids = other.tensors.at("inputs/indices"), &weights = other.tensors.at("inputs/weights");
  other.tensors.erase("inputs/token_mask");
  std::vector<bool> absent;
  for (std::int64_t i = 0; i < ids.size(); ++i) {
    if (!is_live(call, i / d.k)) ids.set(i, -1.0);
    absent.push_back(ids[i] < 0.0);
    if (absent.back()) weights.set(i, 100.0);
  }
  run_full_slots(impl, call, d.E);
  const Answer a(impl, call), b(impl, other);
  expect_all_same(a, b,
                  "slots without an expert have another weight, masked tokens are tokens without experts");
  for (std::int64_t i = 0; call.backward && i < ids.size(); ++i)
    if (absent[static_cast<std::size_t>(i)])
      expect_equal("grads/weights", i, a.at("grads/weights", i), 0.0, "a slot without an expert");
  for (std::int64_t t = 0; t < d.T; ++t) {
    const auto first = absent.begin() + t * d.k;
    if (std::find(first, first + d.k, false) != first + d.k) continue;
    expect_zero_slice(a, "outputs/y", t, "a token without experts");
    if (call.backward) expect_zero_slice(a, "grads/x", t, "a token without experts");
  }
}

void arrange_absent(Descriptor& d) {
  if (d.mask == Mask::absent || d.mask == Mask::none) d.ids = Ids::absent_slots;
}

template <auto Check, bool Exact>
void check(Implementation& impl, const Descriptor& d) {
  Check(impl, d, Exact);
}

const Property kExpertsSlotProperties[] = {
    {"P36",
     "zero_token_expert",
     {Component::experts, Component::moe},
     PropertyClass::exact,
     "an expert without tokens changes nothing, even full of NaN, and has gradients that are exactly zero",
     {"O25", "A24", "A26", "M19"},
     arrange_empty,
     zero_token_expert,
     Passes::either},
    {"P37",
     "loop_over_experts",
     {Component::experts},
     PropertyClass::bounded,
     "all experts at once = one after the other, added up",
     {"group offsets", "M18"},
     arrange_loop,
     check<loop_over_experts, false>,
     Passes::either},
    {"P37",
     "loop_over_experts_exact",
     {Component::experts},
     PropertyClass::exact,
     "all experts at once = one after the other, to the bit on exact data",
     {"group offsets", "M18"},
     arrange_loop_exact,
     check<loop_over_experts, true>,
     Passes::either},
    {"P37",
     "split_rows",
     {Component::experts, Component::mlp},
     PropertyClass::bounded,
     "a call cut in two between any rows gives the same rows, and gradients that add up",
     {"group offsets", "O26"},
     arrange_split,
     check<split_rows, false>,
     Passes::either},
    {"P37",
     "split_rows_exact",
     {Component::experts, Component::mlp},
     PropertyClass::exact,
     "a call cut in two between any rows, to the bit on exact data",
     {"group offsets", "O26"},
     arrange_split_exact,
     check<split_rows, true>,
     Passes::either},
    {"P41",
     "duplicates_add",
     {Component::experts},
     PropertyClass::bounded,
     "an expert that comes twice in a token counts with the sum of its weights",
     {"M32", "A45"},
     arrange_duplicates,
     check<duplicates_add, false>,
     Passes::either},
    {"P41",
     "duplicates_add_exact",
     {Component::experts},
     PropertyClass::exact,
     "an expert that comes twice in a token, to the bit on exact data",
     {"M32", "A45"},
     arrange_duplicates_exact,
     check<duplicates_add, true>,
     Passes::either},
    {"P41",
     "absent_slots",
     {Component::experts},
     PropertyClass::exact,
     "slots with id -1 and masked tokens contribute nothing and get nothing",
     {"O16", "O17", "A45", "gradient of the call before"},
     arrange_absent,
     absent_slots,
     Passes::either},
};

}  // namespace

std::span<const Property> experts_slot_properties() { return kExpertsSlotProperties; }

}  // namespace moeref
