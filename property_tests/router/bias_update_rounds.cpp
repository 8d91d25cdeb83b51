// The update of the correction bias over many rounds: modes, saving between rounds, ranks, where it leads.
#include <algorithm>

#include "moeref/error.hpp"
#include "property_tests/router/update_rounds.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

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
  const std::vector<double> first = bias_delta(a, 0);
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

const Property kBiasUpdateRoundProperties[] = {
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

std::span<const Property> bias_update_round_properties() { return kBiasUpdateRoundProperties; }

}  // namespace moeref
