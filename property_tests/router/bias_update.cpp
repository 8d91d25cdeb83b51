// The rule of the update of the correction bias: c += factor sign(mean load - load), nothing else. Factors
// and biases are dyadic numbers here, so that every step is exact in fp32.
#include <algorithm>

#include "property_tests/router/update_rounds.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void sign_rule(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t s = 0; s < d.steps; ++s) {
    double total = 0.0;
    for (std::int64_t e = 0; e < d.E; ++e) total += a.at(load_name(s), e);
    for (std::int64_t e = 0; e < d.E; ++e) {
      const double gap = total - a.at(load_name(s), e) * static_cast<double>(d.E);
      const double step = gap > 0.0 ? d.factor : gap < 0.0 ? -d.factor : 0.0;
      expect_equal(bias_name(s), e, a.at(bias_name(s), e), bias_before(a, s, e) + step,
                   "one factor up below the mean load, one down above it, nothing at it");
    }
  }
}

void cumulative_load(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t s = 0; s < d.steps; ++s) {
    std::vector<double> load(static_cast<std::size_t>(d.E));
    for (std::int64_t m = 0; m < d.micro; ++m) {
      const Tensor& ids = a[batch_name("outputs/indices", s, m)];
      const Tensor* mask = find(a.call().tensors, batch_name("inputs/token_mask", s, m));
      for (std::int64_t i = 0; i < ids.size(); ++i)
        if (!mask || (*mask)[i / d.k] != 0.0) load.at(static_cast<std::size_t>(ids[i])) += 1.0;
    }
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_equal(load_name(s), e, a.at(load_name(s), e), load[static_cast<std::size_t>(e)],
                   "real tokens of all forwards since the last update, no others");
  }
}

/// Complementary experts: every load l becomes n - l, so that all loads are reflected about their mean.
void antisymmetry(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call other = with_config(call, {{"n_activated_experts", d.E - d.k}});
  for (auto& [name, tensor] : other.tensors) {
    if (!name.starts_with("inputs/replay_indices")) continue;
    std::vector<std::int64_t> rest;
    for (std::int64_t t = 0; t < d.T; ++t)
      for (std::int64_t e = 0; e < d.E; ++e) {
        bool taken = false;
        for (std::int64_t j = 0; j < d.k; ++j) taken = taken || tensor[t * d.k + j] == static_cast<double>(e);
        if (!taken) rest.push_back(e);
      }
    tensor = Tensor::of({d.T, d.E - d.k}, rest);
  }
  const Answer a(impl, call), b(impl, other);
  for (std::int64_t s = 0; s < d.steps; ++s) {
    const std::vector<double> up = bias_delta(a, s), down = bias_delta(b, s);
    for (std::size_t e = 0; e < up.size(); ++e)
      expect_equal(bias_name(s), static_cast<std::int64_t>(e), down[e], -up[e],
                   "loads were reflected about their mean: the step is negated");
  }
}

void arrange_antisymmetry(Descriptor& d) {
  arrange_given(d);
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::min(d.k, d.E - 1);
}

void fixed_point(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  for (std::int64_t s = 0; s < d.steps; ++s)
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_equal(bias_name(s), e, a.at(bias_name(s), e), bias_before(a, s, e),
                   "equal loads leave the bias");
}

void arrange_fixed_point(Descriptor& d) {
  arrange_given(d);
  d.ids = Ids::round_robin;
  if (d.mask != Mask::all) d.mask = Mask::absent;
  d.k = std::min(d.k, d.E);
  while (d.E % d.k != 0) --d.k;
  d.T = std::max<std::int64_t>(1, d.T / (d.E / d.k)) * (d.E / d.k);
}

/// Every forward of a round twice: loads double, their signs stay. As an activation recompute must not be
/// seen.
void doubled_loads(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call twice = call;
  twice.options["micro_batches"] = 2 * d.micro;
  for (std::int64_t s = 0; s < d.steps; ++s)
    for (std::int64_t m = 0; m < d.micro; ++m)
      for (const char* stem : {"inputs/x", "inputs/token_mask", "inputs/replay_indices"})
        if (const Tensor* tensor = find(call.tensors, batch_name(stem, s, m)))
          twice.tensors[batch_name(stem, s, m + d.micro)] = *tensor;
  const Answer a(impl, call), b(impl, twice);
  for (std::int64_t s = 0; s < d.steps; ++s)
    for (std::int64_t e = 0; e < d.E; ++e) {
      expect_equal(load_name(s), e, b.at(load_name(s), e), 2.0 * a.at(load_name(s), e),
                   "every forward came twice");
      expect_equal(bias_name(s), e, b.at(bias_name(s), e), a.at(bias_name(s), e), "every forward came twice");
    }
}

void bias_permutation(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const std::vector<std::int64_t> order = permutation(d.seed, d.E);  // new expert i is old expert order[i]
  std::vector<double> new_id(static_cast<std::size_t>(d.E));
  for (std::size_t i = 0; i < order.size(); ++i)
    new_id[static_cast<std::size_t>(order[i])] = static_cast<double>(i);
  Call moved = call;
  for (const char* rows : {"params/weight", "params/bias", "params/e_score_correction_bias"})
    take_in(moved, rows, 0, order);
  for (auto& [name, ids] : moved.tensors)
    if (name.starts_with("inputs/replay_indices"))
      for (std::int64_t i = 0; i < ids.size(); ++i) ids.set(i, new_id[static_cast<std::size_t>(ids[i])]);
  const Answer a(impl, call), b(impl, moved);
  for (std::int64_t s = 0; s < d.steps; ++s)
    for (std::size_t i = 0; i < order.size(); ++i)
      expect_equal(bias_name(s), static_cast<std::int64_t>(i),
                   b.at(bias_name(s), static_cast<std::int64_t>(i)), a.at(bias_name(s), order[i]),
                   "experts were permuted: the update commutes");
}

const Property kBiasUpdateProperties[] = {
    {"P28",
     "sign_rule",
     {Component::bias_update},
     PropertyClass::exact,
     "every step is the factor times the sign of mean load - load",
     {"A11", "A12", "M26", "sign", "rate", "centring"},
     nullptr,
     sign_rule},
    {"P28",
     "cumulative_load",
     {Component::bias_update},
     PropertyClass::exact,
     "the load that decides is that of real tokens of the forwards since the last update",
     {"A14", "M1", "M11", "A51"},
     nullptr,
     cumulative_load},
    {"P29",
     "antisymmetric_update",
     {Component::bias_update},
     PropertyClass::exact,
     "loads reflected about their mean negate the step",
     {"sign", "centring"},
     arrange_antisymmetry,
     antisymmetry},
    {"P30",
     "update_fixed_point",
     {Component::bias_update},
     PropertyClass::exact,
     "equal loads leave the bias alone",
     {"stale counter", "sign of 0"},
     arrange_fixed_point,
     fixed_point},
    {"P30",
     "doubled_loads",
     {Component::bias_update},
     PropertyClass::exact,
     "doubled loads make the same step",
     {"A14", "M26"},
     arrange_given,
     doubled_loads},
    {"P31",
     "update_expert_permutation",
     {Component::bias_update},
     PropertyClass::exact,
     "the update commutes with a permutation of the experts",
     {"drift"},
     arrange_given,
     bias_permutation},
};

}  // namespace

std::span<const Property> bias_update_properties() { return kBiasUpdateProperties; }

}  // namespace moeref
