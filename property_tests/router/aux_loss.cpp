// The value of the auxiliary loss: aux = sum_i f_i P_i with f_i = load_i E / (k n), P_i = sum of real tokens'
// S_i / n.
#include <algorithm>
#include <cmath>

#include "property_tests/router/plain_losses.hpp"
#include "property_tests/router/router_oracle.hpp"
#include "property_tests/suite/property_tables.hpp"

namespace moeref {
namespace {

void expect_loss(const Answer& a, double want, std::string_view text) {
  expect_near("outputs/aux_loss", 0, a.at("outputs/aux_loss", 0), want,
              a.bound("outputs/aux_loss", 0) + 1e-12 * std::abs(want), text);
}

void uniform(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  Tensor& scores = call.tensors.at("inputs/original_scores");
  scores = filled(scores.dtype(), scores.shape(), 1.0 / static_cast<double>(d.E));
  call.tensors.erase("inputs/token_mask");
  expect_loss(Answer(impl, call), 1.0, "experts take equal shares of tokens and scores: the loss is 1");
}

/// T k slots deal every expert the same load; a power of two of experts, so that 1 / E is exact.
void arrange_uniform(Descriptor& d) {
  d.E = d.E > 8 ? 16 : d.E > 4 ? 8 : d.E > 2 ? 4 : d.E;
  d.k = std::min(d.k, d.E);
  while (d.E % d.k != 0) --d.k;
  d.ids = Ids::round_robin;
  d.mask = Mask::absent;
  const std::int64_t period = d.E / d.k;
  d.T = std::max<std::int64_t>(1, d.T / period) * period;
}

void given_scores(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::vector<double> load = plain_load(call, ids, 0, ids.extent(0));
  for (std::int64_t e = 0; e < d.E; ++e)
    expect_equal("outputs/expert_load", e, a.at("outputs/expert_load", e), load[static_cast<std::size_t>(e)],
                 "real tokens whose ids contain the expert, each once");
  expect_loss(a, plain_loss(call, matrix_of(call.tensors.at("inputs/original_scores")), ids),
              "E / (k n) sum of load times mean score");
}

/// The gate's loss from its own routing and the exact scores.
void gate_loss(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const Answer a(impl, call);
  expect_loss(a, plain_loss(call, loss_scores_of(call), a["outputs/indices"]),
              "the loss of the gate's own routing and scores, normalised like its weights, never scaled");
}

void arrange_gate_loss(Descriptor& d) {
  if (d.aux == 0.0) d.aux = 0.5;
  d.eval = false;
  if (d.biased_weights && d.correction == Correction::negative) d.correction = Correction::equal;
}

void arrange_loss_rules(Descriptor& d) {
  if (d.component == Component::gate) arrange_gate_loss(d);
  d.ranks = 1;
  if (d.config.aux_loss_factor == AuxLossFactor::experts_over_k && d.config.aux_loss_sequences == 1) {
    if (d.seed % 3 != 0) d.config.aux_loss_factor = AuxLossFactor::experts;
    if (d.seed % 3 != 1) d.config.aux_loss_sequences = 2;
  }
  const std::int64_t sequences = d.config.aux_loss_sequences;
  d.T = std::max<std::int64_t>(sequences, (d.T + sequences - 1) / sequences * sequences);
  d.k = std::max<std::int64_t>(d.k, std::min<std::int64_t>(d.E, 2));
  if (d.E < 2) d.E = d.k = 2;
}

void loss_rules(Implementation& impl, const Descriptor& d) {
  (d.component == Component::gate ? gate_loss : given_scores)(impl, d);
}

void arrange_loss_counts(Descriptor& d) {
  if (d.component == Component::gate) arrange_gate_loss(d);
  d.ranks = d.config.aux_loss_sequences = 1;
  if (d.config.aux_loss_counts == AuxLossCounts::every_choice && !d.config.aux_loss_accumulated) {
    if (d.seed % 3 != 0) d.config.aux_loss_counts = AuxLossCounts::first_choice;
    d.config.aux_loss_accumulated = d.seed % 3 != 1;
  }
  if (d.loads == Loads::zero || d.loads == Loads::equal) d.loads = Loads::random;
  d.E = std::max<std::int64_t>(d.E, 2);
  d.k = std::max<std::int64_t>(d.k, 2);
  d.T = std::max<std::int64_t>(d.T, 1);
}

/// The value; and of given scores the gradient, f_i m_t / n.
void loss_counts(Implementation& impl, const Descriptor& d) {
  if (d.component == Component::gate) return gate_loss(impl, d);
  given_scores(impl, d);
  const Answer a(impl, full_call(impl, d));
  if (!a.call().backward) return;
  const std::vector<double> f =
      plain_factors(a.call(), a.call().tensors.at("inputs/indices"), 0, d.T, configured_scope(a.call()));
  const double n = real_tokens(a.call(), 0, d.T);
  for (std::int64_t i = 0; i < d.T * d.E; ++i) {
    const double want = is_real(a.call(), i / d.E) ? f[static_cast<std::size_t>(i % d.E)] / n : 0.0;
    expect_near("grads/original_scores", i, a.at("grads/original_scores", i), want,
                a.bound("grads/original_scores", i) + 1e-12 * want, "the gradient of a score is f_i m_t / n");
  }
}

void loss_needs_training(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const Tensor* loss = find(a.results(), "outputs/aux_loss");
  if (loss && loss->size() > 0)
    fail({"outputs/aux_loss", 0, (*loss)[0], 0.0, 0.0, "a loss outside training or with a coefficient of 0"});
}

void arrange_no_loss(Descriptor& d) {
  if (d.aux > 0.0) d.eval = true;
}

void permuted(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const std::vector<std::int64_t> tokens = permutation(d.seed, d.T), experts = permutation(d.seed + 1, d.E);
  std::vector<double> new_id(static_cast<std::size_t>(d.E));
  for (std::size_t i = 0; i < experts.size(); ++i)
    new_id[static_cast<std::size_t>(experts[i])] = static_cast<double>(i);
  Call moved = call;
  for (const char* rows : {"inputs/original_scores", "inputs/token_mask", "inputs/indices"})
    take_in(moved, rows, 0, tokens);
  take_in(moved, "inputs/original_scores", 1, experts);
  Tensor& ids = moved.tensors.at("inputs/indices");
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0) ids.set(i, new_id[static_cast<std::size_t>(ids[i])]);
  const Answer a(impl, call), b(impl, moved);
  constexpr std::string_view text = "tokens and experts were permuted";
  expect_same(b, a, "outputs/aux_loss", text);
  for (std::size_t i = 0; i < experts.size(); ++i)
    expect_equal("outputs/expert_load", static_cast<std::int64_t>(i),
                 b.at("outputs/expert_load", static_cast<std::int64_t>(i)),
                 a.at("outputs/expert_load", experts[i]), text);
  for (std::int64_t t = 0; call.backward && t < d.T; ++t)
    for (std::int64_t e = 0; e < d.E; ++e) {
      const std::int64_t i = t * d.E + e,
                         j = tokens[static_cast<std::size_t>(t)] * d.E + experts[static_cast<std::size_t>(e)];
      expect_near("grads/original_scores", i, b.at("grads/original_scores", i),
                  a.at("grads/original_scores", j),
                  b.bound("grads/original_scores", i) + a.bound("grads/original_scores", j), text);
    }
}

void doubled_batch(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  std::vector<std::int64_t> twice;
  for (std::int64_t t = 0; t < 2 * d.T; ++t) twice.push_back(t % d.T);
  Call doubled = call;
  for (const char* rows : {"inputs/original_scores", "inputs/token_mask", "inputs/indices"})
    take_in(doubled, rows, 0, twice);
  const Answer a(impl, call), b(impl, doubled);
  expect_same(b, a, "outputs/aux_loss", "every token came twice: the loss is a mean");
  for (std::int64_t i = 0; call.backward && i < d.T * d.E; ++i)
    expect_near("grads/original_scores", i, 2.0 * b.at("grads/original_scores", i),
                a.at("grads/original_scores", i),
                2.0 * b.bound("grads/original_scores", i) + a.bound("grads/original_scores", i),
                "every token came twice: each gets half of the gradient");
}

void concentrated(Implementation& impl, const Descriptor& d) {
  Call call = make_call(d);
  Tensor &scores = call.tensors.at("inputs/original_scores"), &ids = call.tensors.at("inputs/indices");
  scores = filled(scores.dtype(), scores.shape(), 0.0);
  for (std::int64_t t = 0; t < d.T; ++t)
    for (std::int64_t j = 0; j < d.k; ++j) {
      ids.set(t * d.k + j, static_cast<double>(j));
      scores.set(t * d.E + j, 1.0 / static_cast<double>(d.k));
    }
  bool any = false;
  for (std::int64_t t = 0; t < d.T; ++t) any = any || is_real(call, t);
  const double stored =
      scores.size() > 0 ? scores[0] * static_cast<double>(d.k) : 1.0;  // 1 / k as the dtype holds it
  expect_loss(Answer(impl, call), any ? stored * static_cast<double>(d.E) / static_cast<double>(d.k) : 0.0,
              "all tokens and scores on the same k experts: E / k, or 0 without a real token");
}

void at_most(Implementation& impl, const Descriptor& d) {
  const Answer a(impl, make_call(d));
  const double loss = a.at("outputs/aux_loss", 0), most = static_cast<double>(d.E) / static_cast<double>(d.k);
  // Scores in 16 bits may sum to a little more than 1.
  const double bound = a.bound("outputs/aux_loss", 0) + 0.01 * most;
  if (!(loss >= 0.0 && loss <= most + bound))
    fail({"outputs/aux_loss", 0, loss, most, bound,
          "scores that sum to 1 and are not negative: from 0 to E / k"});
}

void arrange_at_most(Descriptor& d) { d.values = Values::rough; }

/// Parts of a batch carry enough to give the loss of the whole: loads and score sums add.
void split_batch(Implementation& impl, const Descriptor& d) {
  const Call call = make_call(d);
  const std::int64_t cut =
      d.T > 0 ? static_cast<std::int64_t>(d.seed % static_cast<std::uint64_t>(d.T + 1)) : 0;
  const Answer whole(impl, call);
  std::vector<double> load(static_cast<std::size_t>(d.E));
  for (const auto& [first, last] : {std::pair{std::int64_t{0}, cut}, {cut, d.T}}) {
    std::vector<std::int64_t> rows;
    for (std::int64_t t = first; t < last; ++t) rows.push_back(t);
    Call part = call;
    for (const char* name : {"inputs/original_scores", "inputs/token_mask", "inputs/indices"})
      take_in(part, name, 0, rows);
    const Answer a(impl, part);
    for (std::int64_t e = 0; e < d.E; ++e)
      load[static_cast<std::size_t>(e)] += a.at("outputs/expert_load", e);
  }
  for (std::int64_t e = 0; e < d.E; ++e)
    expect_equal("outputs/expert_load", e, whole.at("outputs/expert_load", e),
                 load[static_cast<std::size_t>(e)], "loads of two parts of the batch add up");
}

void context_parallel(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  Call single = call;
  for (const char* option : {"cp_size", "tokens_per_rank"}) single.options.erase(option);
  const Answer a(impl, call), b(impl, single);
  constexpr std::string_view text = "context-parallel ranks sum their statistics: as on one rank";
  bool all = true;
  for (std::int64_t t = 0; t < d.T; ++t) {
    const bool compared = expect_same_routing(a, t, b, t, text);
    all = all && compared && ids_of(a, t) == ids_of(b, t);
  }
  if (!all) return;
  for (const auto& [name, tensor] : b.results())
    if (!name.starts_with("stages/")) expect_same(a, b, name, text);
}

void arrange_context_loss(Descriptor& d) {
  arrange_gate_loss(d);
  d.ranks = std::max<std::int64_t>(d.ranks, 2);
  d.rank_kind = RankKind::context;
}

const Property kAuxLossProperties[] = {
    {"C12",
     "loss_rules",
     {Component::aux_loss, Component::gate},
     PropertyClass::bounded,
     "the auxiliary loss has the factor that aux_loss_factor says, and is the mean over aux_loss_sequences",
     {"M13", "one loss over all sequences"},
     arrange_loss_rules,
     loss_rules},
    {"C15",
     "loss_counts",
     {Component::aux_loss, Component::gate},
     PropertyClass::bounded,
     "loads of the auxiliary loss are those that aux_loss_counts says, beside accumulated ones",
     {"all choices counted", "this micro-batch alone"},
     arrange_loss_counts,
     loss_counts,
     Passes::either},
    {"P21",
     "uniform_loss",
     {Component::aux_loss},
     PropertyClass::bounded,
     "equal loads and scores give a loss of 1",
     {"A2", "M13", "aux without 1/n"},
     arrange_uniform,
     uniform},
    {"P22",
     "loss_of_given_scores",
     {Component::aux_loss},
     PropertyClass::bounded,
     "load and loss as the sums say, with ids that repeat or are absent",
     {"O29", "O33", "M13", "A7"},
     nullptr,
     given_scores},
    {"P22",
     "gate_loss",
     {Component::gate},
     PropertyClass::bounded,
     "the gate's loss is that of its routing and its full scores",
     {"A6", "M6", "M15", "O28", "M5"},
     arrange_gate_loss,
     gate_loss},
    {"P22",
     "loss_permutation",
     {Component::aux_loss},
     PropertyClass::bounded,
     "permuted tokens and experts leave the loss",
     {"O29", "axis mix"},
     nullptr,
     permuted,
     Passes::either},
    {"P23",
     "doubled_batch",
     {Component::aux_loss},
     PropertyClass::bounded,
     "a batch that comes twice has the same loss",
     {"A2", "M2", "aux without 1/n"},
     nullptr,
     doubled_batch,
     Passes::either},
    {"P23",
     "no_loss",
     {Component::gate},
     PropertyClass::exact,
     "without a coefficient or outside training there is no loss",
     {"O31", "A43"},
     arrange_no_loss,
     loss_needs_training},
    {"P24",
     "concentrated_loss",
     {Component::aux_loss},
     PropertyClass::bounded,
     "all tokens on the same k experts: E / k",
     {"M13", "normaliser", "A7"},
     nullptr,
     concentrated},
    {"P24",
     "largest_loss",
     {Component::aux_loss},
     PropertyClass::bounded,
     "probabilities give a loss of 0 to E / k",
     {"A2", "A6"},
     arrange_at_most,
     at_most},
    {"P26",
     "split_batch",
     {Component::aux_loss},
     PropertyClass::exact,
     "loads of parts of a batch add up",
     {"M27", "M18"},
     nullptr,
     split_batch},
    {"P26",
     "context_parallel_loss",
     {Component::gate},
     PropertyClass::bounded,
     "context-parallel ranks, uneven or idle, have the loss and gradients of one",
     {"A8", "M33", "M27"},
     arrange_context_loss,
     context_parallel,
     Passes::either},
};

}  // namespace

std::span<const Property> aux_loss_properties() { return kAuxLossProperties; }

}  // namespace moeref
