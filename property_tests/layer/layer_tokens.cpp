// How a layer treats its tokens: alone or in a batch, in any order and shape, masked, few or none.
#include <algorithm>
#include <cmath>

#include "moeref/signature.hpp"
#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void lone_rows(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer whole(impl, call);
  for (std::int64_t t = 0; t < std::min<std::int64_t>(d.T, 3); ++t) {
    const std::int64_t one[] = {t};
    const Answer alone(impl, with_tokens(call, one));
    for (const char* rows : {"outputs/y", "grads/x", "grads/weights"})
      if (whole.has(rows)) expect_same_row(alone, 0, whole, t, rows, "the token came alone");
  }
}

/// The same to the bit, for those that promise it.
void lone_rows_bitwise(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer whole(impl, call);
  for (std::int64_t t = 0; t < std::min<std::int64_t>(d.T, 3); ++t) {
    const std::int64_t one[] = {t};
    const Answer alone(impl, with_tokens(call, one));
    for (const char* rows : {"outputs/y", "grads/x", "grads/weights"}) {
      if (!whole.has(rows)) continue;
      const std::int64_t width = alone[rows].size();
      for (std::int64_t i = 0; i < width; ++i)
        expect_equal(rows, t * width + i, whole.at(rows, t * width + i), alone.at(rows, i),
                     "the token came alone before: other bits");
    }
  }
}

/// Without the auxiliary loss, which tokens share.
void arrange_lone_rows(Descriptor& d) {
  arrange_replayed_routing(d);
  d.aux = 0.0;
  d.spread = Spread::even;
}

void row_order(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::vector<std::int64_t> order = permutation(d.seed, d.T);
  const Answer a(impl, call), b(impl, with_tokens(call, order));
  if (d.component == Component::moe) {
    require_decided(a);
    require_decided(b);
  }
  constexpr std::string_view text = "tokens were reordered";
  for (const auto& [name, tensor] : a.results()) {
    if (name.starts_with("stages/") || name == "outputs/indices" || name == "outputs/weights") continue;
    const bool by_row = name == "outputs/y" || name == "grads/x" || name == "grads/weights";
    if (!by_row) expect_same(b, a, name, text);
    for (std::int64_t t = 0; by_row && t < d.T; ++t)
      expect_same_row(b, t, a, order[static_cast<std::size_t>(t)], name, text);
  }
}

/// The balanced gate deals by the token's place.
void arrange_row_order(Descriptor& d) {
  d.fake_gate = false;
  arrange_decided_routing(d);
}

void expect_same_values(const Answer& a, const Answer& b, std::string_view tensor, std::string_view text) {
  if (a[tensor].size() != b[tensor].size())
    fail({std::string(tensor), -1, static_cast<double>(a[tensor].size()),
          static_cast<double>(b[tensor].size()), 0.0, std::string(text) + ": number of elements"});
  for (std::int64_t i = 0; i < a[tensor].size(); ++i)
    if (a.at(tensor, i) != b.at(tensor, i))
      expect_near(tensor, i, a.at(tensor, i), b.at(tensor, i), a.bound(tensor, i) + b.bound(tensor, i), text);
}

/// x [B, S, D] is x [B S, D].
void batch_shape(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::int64_t batch = d.T % 3 == 0 ? 3 : d.T % 2 == 0 ? 2 : 1;
  Call shaped = call;
  for (const char* name : {"inputs/x", "cotangents/y", "inputs/padding_mask"}) {
    const auto found = shaped.tensors.find(name);
    if (found == shaped.tensors.end()) continue;
    Shape shape = found->second.shape();
    shape.front() /= batch;
    shape.insert(shape.begin(), batch);
    found->second = found->second.reshaped(shape);
  }
  const Answer flat(impl, call), a(impl, shaped);
  constexpr std::string_view text = "tokens came in several sequences";
  if (d.component == Component::moe) require_decided(flat);
  if (a["outputs/y"].shape() != shaped.tensors.at("inputs/x").shape())
    fail(
        {"outputs/y", -1, 0.0, 0.0, 0.0, "shape " + to_string(a["outputs/y"].shape()) + " is not that of x"});
  for (const auto& [name, tensor] : flat.results())
    if (!name.starts_with("stages/")) expect_same_values(a, flat, name, text);
}

void layer_load(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (const char* name : {"outputs/indices", "outputs/expert_load"})
    if (!a.has(name)) throw NotSupported("the layer does not give out its " + std::string(name));
  std::vector<double> load(static_cast<std::size_t>(d.E));
  std::int64_t live = 0;
  for (std::int64_t t = 0; t < d.T; ++t) {
    live += is_live(a.call(), t);
    for (const Slot& s : slots_of(a, t)) load[static_cast<std::size_t>(s.expert)] += is_live(a.call(), t);
  }
  double sum = 0.0;
  for (std::int64_t e = 0; e < d.E; ++e) {
    expect_equal("outputs/expert_load", e, a.at("outputs/expert_load", e), load[static_cast<std::size_t>(e)],
                 "the load is the histogram of the experts of real tokens");
    sum += a.at("outputs/expert_load", e);
  }
  expect_equal("outputs/expert_load", 0, sum, static_cast<double>(live * d.k),
               "loads sum to k times the real tokens");
}

void arrange_flat(Descriptor& d) { d.batch = 1; }

/// Everything that the call must give is there, has its shape, and is finite; nothing comes from no token.
void edges(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, full_call(impl, d));
  const Signature want = signature(a.call());
  for (const TensorSpec& spec : want.outputs) {
    if (!spec.required) continue;
    const Tensor& tensor = a[spec.name];
    if (tensor.shape() != spec.shape)
      fail({spec.name, -1, 0.0, 0.0, 0.0,
            "shape " + to_string(tensor.shape()) + " where " + to_string(spec.shape) + " belongs"});
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      // 16 bits may overflow, where the bound says so.
      if (!std::isfinite(tensor[i]) && std::isfinite(a.bound(spec.name, i)))
        fail({spec.name, i, tensor[i], 0.0, 0.0, "a value that is not finite"});
      if (d.T == 0) expect_equal(spec.name, i, tensor[i], 0.0, "there are no tokens");
    }
  }
}

void arrange_edges(Descriptor& d) {
  d.values = d.values == Values::loud ? Values::rough : d.values;
  switch (d.seed % 6) {
    case 0:
      d.T = 0;
      break;
    case 1:
      d.T = 1;
      break;
    case 2:
      d.k = 1;
      break;
    case 3:  // all tokens to one expert
      d.ids = Ids::same;
      d.replay = d.component == Component::moe && !d.fake_gate;
      break;
    case 4:  // every expert exactly once
      d.ids = Ids::round_robin;
      d.k = 1;
      d.T = d.E;
      d.replay = d.component == Component::moe && !d.fake_gate;
      break;
    default:
      d.k = d.E;
  }
}

/// The call is as it was, and what came before it does not matter.
void earlier_calls(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Call kept = call;
  Descriptor other = d;
  other.seed = d.seed + 1;
  other.noise = 0.0;  // which a NaN cannot seed
  other.poison = d.T > 0 ? NonFinite::nan : NonFinite::none;
  other.T += static_cast<std::int64_t>(d.seed % 3);  // buffers of the same size, or of another
  repair(other);
  const Answer first(impl, full_call(impl, other)), before(impl, call);
  if (impl.run(call).empty()) fail({"", -1, 0.0, 0.0, 0.0, "no results"});
  const Answer after(impl, call);
  for (const auto& [name, tensor] : kept.tensors)
    if (!(call.tensors.at(name) == tensor)) fail({name, -1, 0.0, 0.0, 0.0, "an input was changed"});
  if (!d.replay && d.component == Component::moe) require_decided(before);
  expect_all_same(after, before, "the first time another call came before");
}

/// A masked token's row of a layer without shared experts is fc2's bias or zero; the shared experts alone
/// read what it holds.
void masked_rows(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call other = call;
  for (const char* rows : {"inputs/x", "inputs/weights"})
    for (std::int64_t t = 0; t < d.T && other.tensors.contains(rows); ++t)
      if (!is_live(call, t)) change_slice(other.tensors.at(rows), t, [](double v) { return 2.5 - v; });
  const Answer a(impl, call), b(impl, other);
  constexpr std::string_view text = "masked tokens hold other values";
  const Tensor* bias = find(call.tensors, "params/fc2_latent_proj.bias");
  for (std::int64_t t = 0; t < d.T; ++t) {
    if (is_live(call, t)) {
      for (const char* rows : {"outputs/y", "grads/x", "grads/weights"})
        if (a.has(rows)) expect_same_row(b, t, a, t, rows, text);
      continue;
    }
    for (std::int64_t c = 0; c < d.D && d.shared == 0; ++c)
      expect_equal("outputs/y", t * d.D + c, a.at("outputs/y", t * d.D + c), bias ? (*bias)[c] : 0.0,
                   "a masked token without shared experts");
    if (d.shared == 0 && call.backward)
      expect_zero_slice(a, "grads/x", t, "a masked token gives no gradient");
    if (a.has("grads/weights")) expect_zero_slice(a, "grads/weights", t, "a masked token gives no gradient");
  }
  for (const auto& [name, tensor] : a.results()) {
    const bool shared = name.starts_with("grads/shared_") || name == "grads/x" || name == "grads/weights";
    const bool of_batch =
        name.starts_with("grads/") || name == "outputs/expert_load" || name == "outputs/aux_loss";
    if (of_batch && !shared) expect_same(b, a, name, text);
  }
}

void arrange_masked_rows(Descriptor& d) {
  arrange_given_routing(d);
  if (d.mask == Mask::absent || d.mask == Mask::none) d.mask = Mask::random;
}

const Property kLayerTokenProperties[] = {
    {"P27",
     "lone_rows",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "a token has the same output and gradient alone as among others",
     {"coupled scales", "A23"},
     arrange_lone_rows,
     lone_rows,
     Passes::either},
    {"P27",
     "lone_rows_bitwise",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::exact,
     "a token has the same bits alone as among others",
     {"coupled scales", "split sums"},
     arrange_lone_rows,
     lone_rows_bitwise,
     Passes::either,
     Needs::batch_invariant},
    {"P27",
     "row_order",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "outputs follow a permutation of the tokens, everything else stays",
     {"row mix-up", "A45"},
     arrange_row_order,
     row_order,
     Passes::either},
    {"P27",
     "batch_shape",
     {Component::mlp, Component::moe},
     PropertyClass::bounded,
     "tokens in several sequences are the same tokens",
     {"O20", "O29", "M2"},
     arrange_decided_routing,
     batch_shape,
     Passes::either},
    {"P45",
     "layer_load",
     {Component::moe},
     PropertyClass::exact,
     "the load is the histogram of the ids over real tokens, k for each",
     {"M1", "O35", "lost slots"},
     arrange_flat,
     layer_load},
    {"P46",
     "edges",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::exact,
     "no token, one token, one slot, one expert for all, each expert once: all results, finite and of their "
     "shape",
     {"A7", "A24", "A25", "O32"},
     arrange_edges,
     edges,
     Passes::either},
    {"P47",
     "earlier_calls",
     {Component::experts, Component::mlp, Component::moe},
     PropertyClass::bounded,
     "inputs stay as they are, and results do not depend on earlier calls",
     {"O15", "O25", "accumulation into dirty buffers"},
     nullptr,
     earlier_calls,
     Passes::either},
    {"P16",
     "masked_rows",
     {Component::experts, Component::moe},
     PropertyClass::bounded,
     "masked tokens get no routed output, give no gradient, and what they hold changes nothing",
     {"M1", "O33", "O17"},
     arrange_masked_rows,
     masked_rows,
     Passes::either},
};

}  // namespace

std::span<const Property> layer_token_properties() { return kLayerTokenProperties; }

}  // namespace moeref
