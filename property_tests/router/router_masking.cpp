// Masked tokens, tokens that hold NaN, and what one token may know of another.
#include <cmath>
#include <limits>

#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

/// Load of the implementation's own experts, real tokens only.
std::vector<double> histogram(const Answer& a) {
  std::vector<double> load(static_cast<std::size_t>(a.experts()));
  for (std::int64_t t = 0; t < a.tokens(); ++t)
    for (const Slot& s : slots_of(a, t)) load[static_cast<std::size_t>(s.expert)] += is_real(a.call(), t);
  return load;
}

void load_counts(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const std::vector<double> want = histogram(a);
  for (std::int64_t e = 0; e < d.E; ++e)
    expect_equal("outputs/expert_load", e, a.at("outputs/expert_load", e), want[static_cast<std::size_t>(e)],
                 "the load counts real tokens");
}

/// Other finite values in the rows of masked tokens: nothing that belongs to real tokens may change.
void masked_contents(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call other = call;
  Tensor& x = other.tensors.at("inputs/x");
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t c = 0; c < d.D && !is_real(call, t); ++c) x.set(t * d.D + c, 3.0 - x[t * d.D + c]);
  const Answer a(impl, call), b(impl, other);
  constexpr std::string_view text = "masked tokens were given other values";
  bool all = true;
  for (std::int64_t t = 0; t < d.T; ++t) {
    if (!is_real(call, t)) continue;
    const bool compared = expect_same_routing(b, t, a, t, text);
    all = all && compared;
  }
  if (!all) return;
  expect_identical(a, b, "outputs/expert_load", text);
  if (a.has("outputs/aux_loss")) expect_same(b, a, "outputs/aux_loss", text);
  for (std::int64_t t = 0; t < d.T; ++t)
    if (a.has("grads/x") && is_real(call, t) && ids_of(a, t) == ids_of(b, t))
      expect_same_row(b, t, a, t, "grads/x", text);
}

void arrange_masked(Descriptor& d) {
  if (d.mask == Mask::absent || d.mask == Mask::none) d.mask = Mask::random;
}

/// The auxiliary loss alone sends gradient here: none of it to masked tokens.
void masked_gradient(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d, true);
  Tensor& dw = call.tensors.at("cotangents/weights");
  dw = filled(dw.dtype(), dw.shape(), 0.0);
  const Answer a(impl, call);
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t c = 0; c < d.D && !is_real(call, t); ++c)
      expect_equal("grads/x", t * d.D + c, a.at("grads/x", t * d.D + c), 0.0,
                   "no gradient reached the weights: a masked token gets none from the auxiliary loss");
}

void arrange_masked_gradient(Descriptor& d) {
  arrange_masked(d);
  if (d.aux == 0.0) d.aux = 0.5;
  d.eval = false;
}

void open_mask(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call open = call;
  open.tensors["inputs/token_mask"] = filled(DType::boolean, {d.T}, 1.0);
  const Answer a(impl, call), b(impl, open);
  for (const auto& [name, tensor] : a.results())
    if (!name.starts_with("stages/")) expect_same(b, a, name, "a mask of real tokens only is no mask");
}

void arrange_no_mask(Descriptor& d) { d.mask = Mask::absent; }

/// Dropping masked tokens altogether leaves the load and the loss.
void dropped_tokens(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call packed = call;
  std::vector<std::int64_t> real;
  for (std::int64_t t = 0; t < d.T; ++t)
    if (is_real(call, t)) real.push_back(t);
  for (const char* rows : {"inputs/x", "inputs/token_mask"}) take_in(packed, rows, 0, real);
  const Answer a(impl, call), b(impl, packed);
  constexpr std::string_view text = "masked tokens were left out";
  bool all = true;
  for (std::size_t i = 0; i < real.size(); ++i) {
    const bool compared = expect_same_routing(b, static_cast<std::int64_t>(i), a, real[i], text);
    all = all && compared;
  }
  if (!all) return;
  expect_identical(a, b, "outputs/expert_load", text);
  if (a.has("outputs/aux_loss")) expect_same(b, a, "outputs/aux_loss", text);
}

void arrange_dropped(Descriptor& d) {
  arrange_masked(d);
  d.ranks = 1;  // the parts of context-parallel ranks would be others
}

void poisoned_token(Implementation& impl, const Descriptor& d) {
  Descriptor clean = d;
  clean.poison = NonFinite::none;
  const Call sound = make_call(clean);
  const Answer a(impl, make_call(d)), b(impl, sound);
  const std::int64_t token = d.T / 2;
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t)
    if (t != token)
      compared += expect_same_routing(a, t, b, t, "another token holds a value that is not finite");
  (void)slots_of(a, token);  // k different experts in range, whatever its scores
  require_some(compared, d.T - 1);
}

void arrange_poisoned(Descriptor& d) {
  d.T = std::max<std::int64_t>(d.T, 2);
  if (d.poison == NonFinite::none) d.poison = d.seed % 2 == 0 ? NonFinite::nan : NonFinite::infinity;
}

/// Every token alone: the gate has no other way between tokens than the load and the loss.
void lone_tokens(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < std::min<std::int64_t>(d.T, 3); ++t) {
    Call alone = call;
    const std::int64_t one[] = {t};
    for (const char* rows : {"inputs/x", "inputs/token_mask"}) take_in(alone, rows, 0, one);
    compared += expect_same_routing(Answer(impl, alone), 0, a, t, "the token came alone");
  }
  require_some(compared, d.T);
}

void arrange_lone(Descriptor& d) { d.ranks = 1; }

const Property kRouterMaskingProperties[] = {
    {"P16",
     "load_counts",
     {Component::gate},
     PropertyClass::exact,
     "the load is the histogram of the selected experts over real tokens",
     {"M1", "A51", "O35"},
     nullptr,
     load_counts,
     Passes::forward,
     Needs::nothing,
     false,
     Sizes::any_scale},
    {"P16",
     "masked_contents",
     {Component::gate},
     PropertyClass::exact,
     "what masked tokens hold changes nothing of the others, nor load and loss",
     {"M1", "O33", "M30"},
     arrange_masked,
     masked_contents,
     Passes::either},
    {"P16",
     "masked_gradient",
     {Component::gate},
     PropertyClass::exact,
     "masked tokens get no gradient from the auxiliary loss",
     {"O33", "M30"},
     arrange_masked_gradient,
     masked_gradient,
     Passes::backward},
    {"P16",
     "open_mask",
     {Component::gate},
     PropertyClass::bounded,
     "a mask that masks nothing changes nothing",
     {"inverted mask"},
     arrange_no_mask,
     open_mask,
     Passes::either},
    {"P16",
     "dropped_tokens",
     {Component::gate},
     PropertyClass::bounded,
     "leaving masked tokens out leaves load and loss as they were",
     {"A7", "O33"},
     arrange_dropped,
     dropped_tokens},
    {"P16",
     "poisoned_token",
     {Component::gate},
     PropertyClass::exact,
     "NaN or infinity in one token stays there, and that token too gets k different experts",
     {"A23", "NaN selects expert 0 in every slot"},
     arrange_poisoned,
     poisoned_token},
    {"P27",
     "lone_tokens",
     {Component::gate},
     PropertyClass::bounded,
     "a token is routed alone as among others",
     {"coupled scales", "A51"},
     arrange_lone,
     lone_tokens},
};

}  // namespace

std::span<const Property> router_masking_properties() { return kRouterMaskingProperties; }

}  // namespace moeref
