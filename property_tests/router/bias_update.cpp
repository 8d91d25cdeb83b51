// The update of the correction bias: c += factor sign(mean load - load), nothing else. Factors and biases are
// dyadic numbers here, so that every step is exact in fp32.
#include <algorithm>
#include <cmath>

#include "moeref/error.hpp"
#include "property_tests/router/plain_quantiles.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

std::string round_name(std::string_view stem, std::int64_t step) {
  return std::string(stem) + "_" + std::to_string(step);
}
std::string bias_name(std::int64_t step) { return round_name("outputs/e_score_correction_bias", step); }
std::string load_name(std::int64_t step) { return round_name("outputs/cumulative_expert_load", step); }
std::string batch_name(std::string_view stem, std::int64_t step, std::int64_t micro) {
  return round_name(round_name(stem, step), micro);
}

double bias_before(const Answer& a, std::int64_t step, std::int64_t expert) {
  return step == 0 ? require(a.call().tensors, "params/e_score_correction_bias")[expert]
                   : a.at(bias_name(step - 1), expert);
}

/// What a round added to the bias.
std::vector<double> delta(const Answer& a, std::int64_t step) {
  std::vector<double> out;
  for (std::int64_t e = 0; e < a.experts(); ++e)
    out.push_back(a.at(bias_name(step), e) - bias_before(a, step, e));
  return out;
}

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

/// The same less the mean of all steps, which three roundings in fp32 may move.
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
    const std::vector<double> up = delta(a, s), down = delta(b, s);
    for (std::size_t e = 0; e < up.size(); ++e)
      expect_equal(bias_name(s), static_cast<std::int64_t>(e), down[e], -up[e],
                   "loads were reflected about their mean: the step is negated");
  }
}

void arrange_given(Descriptor& d) {
  d.replay = true;
  if (d.ids == Ids::duplicates || d.ids == Ids::absent_slots) d.ids = Ids::distinct;
  // Groups bind the selection only, and k with it.
  d.groups = d.limited = 1;
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

void needs_training(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  call.options["training"] = false;
  if (const auto reason = impl.unsupported(call)) throw NotSupported(*reason);
  try {
    (void)impl.run(call);
  } catch (const InputError&) {
    return;
  }
  fail({"", -1, 0.0, 0.0, 0.0, "an update outside training was computed: it is an error"});
}

/// Outside training the gate routes as ever: the bias that it is given counts and stays.
void eval_routes_alike(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call eval = call;
  eval.options["training"] = false;
  const Answer a(impl, call), b(impl, eval);
  std::int64_t compared = 0;
  for (std::int64_t t = 0; t < d.T; ++t) compared += expect_same_routing(b, t, a, t, "outside training");
  require_some(compared, d.T);
  if (a.all_decided()) expect_identical(a, b, "outputs/expert_load", "outside training");
}

void arrange_eval(Descriptor& d) { d.eval = false; }

void linear_growth(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  for (std::int64_t s = 1; s < d.steps; ++s)
    for (std::int64_t m = 0; m < d.micro; ++m)
      for (const char* stem : {"inputs/x", "inputs/token_mask", "inputs/replay_indices"})
        if (const Tensor* first = find(call.tensors, batch_name(stem, 0, m)))
          call.tensors[batch_name(stem, s, m)] = Tensor(*first);
  const Answer a(impl, call);
  const std::vector<double> first = delta(a, 0);
  for (std::int64_t e = 0; e < d.E; ++e)
    expect_equal(bias_name(d.steps - 1), e, a.at(bias_name(d.steps - 1), e),
                 bias_before(a, 0, e) + static_cast<double>(d.steps) * first[static_cast<std::size_t>(e)],
                 "the same loads in every round: the bias grows by the same step");
}

void arrange_growth(Descriptor& d) {
  arrange_given(d);
  d.steps = std::max<std::int64_t>(d.steps, 2);
}

/// The rounds from `first` on, given the bias that the earlier ones left.
Call resumed(const Descriptor& d, const Call& call, const Answer& before, std::int64_t first) {
  Call rest = call;
  rest.options["steps"] = d.steps - first;
  for (const char* stem : {"inputs/x", "inputs/token_mask", "inputs/replay_indices"})
    for (std::int64_t s = 0; s < d.steps; ++s)
      for (std::int64_t m = 0; m < d.micro; ++m) {
        rest.tensors.erase(batch_name(stem, s, m));
        const Tensor* later = find(call.tensors, batch_name(stem, s + first, m));
        if (later) rest.tensors[batch_name(stem, s, m)] = *later;
      }
  rest.tensors["params/e_score_correction_bias"] = before[bias_name(first - 1)].cast(DType::float32);
  return rest;
}

void save_and_load(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer whole(impl, call);
  if (!whole.all_decided()) throw Discarded("a token's selection is not decided");
  const std::int64_t first = 1 + static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.steps - 1));
  const Answer rest(impl, resumed(d, call, whole, first));
  for (std::int64_t s = first; s < d.steps; ++s)
    for (std::int64_t e = 0; e < d.E; ++e)
      expect_equal(bias_name(s), e, rest.at(bias_name(s - first), e), whole.at(bias_name(s), e),
                   "saved and loaded between rounds: as uninterrupted");
}

void arrange_save(Descriptor& d) {
  d.steps = std::max<std::int64_t>(d.steps, 2);
  if (d.logits == Logits::ties || d.logits == Logits::equal || d.logits == Logits::large)
    d.logits = Logits::levels;
  // Ties with biases that moved by few factors are common in narrow types.
  if (d.dtype == DType::bfloat16 || d.dtype == DType::float16) d.replay = true;
  if (d.replay) arrange_given(d);
}

void data_parallel(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  Call single = call;
  for (const char* option : {"dp_size", "tokens_per_rank"}) single.options.erase(option);
  const Answer a(impl, call), b(impl, single);
  if (!b.all_decided()) throw Discarded("a token's selection is not decided");
  for (std::int64_t s = 0; s < d.steps; ++s)
    for (std::int64_t e = 0; e < d.E; ++e) {
      expect_equal(load_name(s), e, a.at(load_name(s), e), b.at(load_name(s), e), "ranks sum their loads");
      expect_equal(bias_name(s), e, a.at(bias_name(s), e), b.at(bias_name(s), e), "as on one rank");
    }
}

void arrange_data_parallel(Descriptor& d) {
  arrange_save(d);
  d.ranks = std::max<std::int64_t>(d.ranks, 2);
}

/// The same skewed batch round after round: the largest load comes down towards the mean, on average.
void closed_loop(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  for (std::int64_t s = 1; s < d.steps; ++s)
    call.tensors[batch_name("inputs/x", s, 0)] = Tensor(call.tensors.at("inputs/x_0_0"));
  const Answer a(impl, call);
  const auto largest_load = [&](std::int64_t s) {
    double most = 0.0;
    for (std::int64_t e = 0; e < d.E; ++e) most = std::max(most, a.at(load_name(s), e));
    return most;
  };
  double late = 0.0;
  const std::int64_t quarter = d.steps / 4;
  for (std::int64_t s = d.steps - quarter; s < d.steps; ++s)
    late += largest_load(s) / static_cast<double>(quarter);
  if (late > largest_load(0))
    fail({load_name(d.steps - 1), -1, late, largest_load(0), 0.0,
          "mean of the largest loads in the last quarter of the rounds, against the first: the update "
          "unbalances"});
}

void arrange_closed_loop(Descriptor& d) {
  d.E = std::clamp<std::int64_t>(d.E, 4, 12);
  d.k = std::min<std::int64_t>(d.k, d.E / 2);
  d.groups = d.limited = 1;
  d.T = std::max<std::int64_t>(d.T, 24);
  d.D = d.E;
  d.mask = Mask::absent;
  d.replay = false;
  d.router_bias = false;
  d.logits = Logits::skewed;
  d.steps = 64;
  d.micro = d.ranks = 1;
  d.factor = 0x1p-6;
  d.correction = Correction::zero;
  if (d.score != ScoreFunc::sigmoid_with_bias) d.score = ScoreFunc::sigmoid;
}

const Property kBiasUpdateProperties[] = {
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
    {"P31",
     "update_needs_training",
     {Component::bias_update},
     PropertyClass::exact,
     "an update outside training is an error",
     {"mode", "A18"},
     nullptr,
     needs_training},
    {"P31",
     "eval_routes_alike",
     {Component::gate},
     PropertyClass::exact,
     "outside training the gate routes as in it",
     {"mode"},
     arrange_eval,
     eval_routes_alike},
    {"P32",
     "linear_growth",
     {Component::bias_update},
     PropertyClass::exact,
     "n rounds of the same loads move the bias by n steps",
     {"A11", "M9", "O34", "dtype of the bias"},
     arrange_growth,
     linear_growth},
    {"P32",
     "save_and_load",
     {Component::bias_update},
     PropertyClass::exact,
     "saving and loading between rounds changes nothing",
     {"O22", "A13", "lost buffer"},
     arrange_save,
     save_and_load},
    {"P33",
     "data_parallel_update",
     {Component::bias_update},
     PropertyClass::exact,
     "data-parallel ranks, uneven or idle, update as one",
     {"A12", "O21"},
     arrange_data_parallel,
     data_parallel},
    {"P33",
     "closed_loop",
     {Component::bias_update},
     PropertyClass::statistical,
     "on a fixed skewed batch the largest load does not grow",
     {"A19", "sign", "divergence"},
     arrange_closed_loop,
     closed_loop},
};

}  // namespace

std::span<const Property> bias_update_properties() { return kBiasUpdateProperties; }

}  // namespace moeref
