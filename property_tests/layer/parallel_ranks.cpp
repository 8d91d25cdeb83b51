// What must not depend on how many ranks there are, which experts and tokens they hold, and how they
// exchange.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "property_tests/layer/layer_calls.hpp"
#include "property_tests/suite/property_tables.hpp"
#include "reference_cpu/arithmetic/counter_generator.hpp"

namespace moeref {
namespace {

Call on_ranks(Call call, const char* kind, std::int64_t ranks, const char* exchange = nullptr,
              const std::vector<std::int64_t>& tokens = {}) {
  for (const char* option : {"ep_size", "cp_size", "tokens_per_rank", "exchange"}) call.options.erase(option);
  if (ranks == 1) return call;
  call.options[kind] = ranks;
  if (exchange) call.options["exchange"] = exchange;
  if (!tokens.empty()) call.options["tokens_per_rank"] = tokens;
  return call;
}

/// T tokens cut at random: ranks without tokens come often.
std::vector<std::int64_t> random_counts(std::uint64_t seed, std::int64_t tokens, std::int64_t ranks) {
  const CounterGenerator random(seed, "rank counts");
  std::vector<std::int64_t> cuts{0, tokens};
  for (std::int64_t r = 1; r < ranks; ++r)
    cuts.push_back(static_cast<std::int64_t>(
        random.integer(static_cast<std::uint64_t>(r), static_cast<std::uint64_t>(tokens + 1))));
  std::ranges::sort(cuts);
  std::vector<std::int64_t> out;
  for (std::size_t r = 0; r + 1 < cuts.size(); ++r) out.push_back(cuts[r + 1] - cuts[r]);
  return out;
}

void expert_ranks(Implementation& impl, const Descriptor& d, bool exact) {
  const Call call = full_call(impl, d);
  const Answer one(impl, on_ranks(call, "ep_size", 1));
  if (d.component == Component::moe) require_decided(one);
  for (const std::int64_t ranks : {2, 4, 8}) {
    if (d.E % ranks != 0) continue;
    for (const char* exchange : {"all_gather", "all_to_all"}) {
      const Answer even(impl, on_ranks(call, "ep_size", ranks, exchange));
      expect_all_same(even, one, "several expert-parallel ranks against one", exact);
    }
    const char* exchange = d.seed % 2 == 0 ? "all_gather" : "all_to_all";
    const std::vector<std::int64_t> counts = random_counts(d.seed, d.T, ranks);
    const Answer uneven(impl, on_ranks(call, "ep_size", ranks, exchange, counts));
    expect_all_same(uneven, one, "expert-parallel ranks with different numbers of tokens, or none", exact);
  }
}

void arrange_whole_groups(Descriptor& d) {
  d.E = d.seed % 3 == 0 ? 8 : std::min<std::int64_t>((d.E + 3) / 4 * 4, 16);
  d.ranks = 1;
  d.spread = Spread::even;
}
void arrange_expert_ranks(Descriptor& d) {
  arrange_decided_routing(d);
  arrange_whole_groups(d);
}
void arrange_expert_ranks_exact(Descriptor& d) {
  arrange_exact(d);
  arrange_whole_groups(d);
}

/// Tokens in other parts over the same ranks.
void rank_tokens(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const char* kind = d.rank_kind == RankKind::expert ? "ep_size" : "cp_size";
  const char* exchange = d.rank_kind == RankKind::context ? nullptr
                         : d.all_to_all                   ? "all_to_all"
                                                          : "all_gather";
  const Answer even(impl, on_ranks(call, kind, d.ranks, exchange));
  if (d.component != Component::experts) require_decided(even);
  std::vector<std::int64_t> first(static_cast<std::size_t>(d.ranks)), last = first;
  first.front() = last.back() = d.T;
  for (const auto& counts : {first, last, random_counts(d.seed, d.T, d.ranks)}) {
    const Answer other(impl, on_ranks(call, kind, d.ranks, exchange, counts));
    expect_all_same(other, even, "tokens were spread over the ranks in another way");
  }
}

void arrange_rank_tokens(Descriptor& d) {
  arrange_decided_routing(d);
  if (d.ranks == 1) d.ranks = d.seed % 2 == 0 ? 2 : 4;
  // Experts go to the ranks in equal parts.
  if (d.component == Component::experts || d.rank_kind == RankKind::expert)
    d.E = (d.E + d.ranks - 1) / d.ranks * d.ranks;
}

/// Statistics of the auxiliary loss and its gradient are those of the whole sequence.
void context_ranks(Implementation& impl, const Descriptor& d) {
  const Call call = full_call(impl, d);
  const Answer one(impl, on_ranks(call, "cp_size", 1));
  require_decided(one);
  for (const std::int64_t ranks : {2, 3, 4}) {
    const Answer even(impl, on_ranks(call, "cp_size", ranks));
    expect_all_same(even, one, "several context-parallel ranks against one");
    const Answer uneven(impl, on_ranks(call, "cp_size", ranks, nullptr, random_counts(d.seed, d.T, ranks)));
    expect_all_same(uneven, one, "context-parallel ranks with different numbers of tokens, or none");
  }
}

void arrange_context_ranks(Descriptor& d) {
  arrange_decided_routing(d);
  d.ranks = 1;
}

/// New expert i is old expert order[i]: the same layer with its experts elsewhere.
void expert_placement(Implementation& impl, const Descriptor& d, bool exact) {
  Call call = full_call(impl, d);
  if (const auto gate = call.tensors.find("params/gate.weight"); exact && gate != call.tensors.end())
    gate->second = filled(gate->second.dtype(), gate->second.shape(), 0.0);
  const std::vector<std::int64_t> order = permutation(d.seed, d.E);
  std::vector<double> moved_to(order.size());
  for (std::size_t i = 0; i < order.size(); ++i)
    moved_to[static_cast<std::size_t>(order[i])] = static_cast<double>(i);
  Call moved = call;
  for (const std::string_view tensor : kExpertTensors)
    take_in(moved, expert_tensor(d.component, "params", tensor), 0, order);
  for (const char* rows : {"params/gate.weight", "params/gate.bias", "params/gate.e_score_correction_bias"})
    take_in(moved, rows, 0, order);
  Tensor& ids = moved.tensors.at(d.component == Component::moe ? "inputs/replay_indices" : "inputs/indices");
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0) ids.set(i, moved_to[static_cast<std::size_t>(ids[i])]);

  const Answer a(impl, call), b(impl, moved);
  constexpr std::string_view text = "experts were placed in another order";
  for (const auto& [name, tensor] : a.results()) {
    // By slot, whose order means nothing.
    if (name.starts_with("stages/") || name == "outputs/indices" || name == "outputs/weights") continue;
    bool by_expert = name == "outputs/expert_load" || name.starts_with("grads/gate.");
    for (const std::string_view expert : kExpertTensors)
      by_expert = by_expert || name == expert_tensor(d.component, "grads", expert);
    if (!by_expert) exact ? expect_identical(b, a, name, text) : expect_same(b, a, name, text);
    const std::int64_t width = by_expert && d.E > 0 ? tensor.size() / d.E : 0;
    for (std::int64_t i = 0; i < d.E * width; ++i) {
      const std::int64_t j = order[static_cast<std::size_t>(i / width)] * width + i % width;
      if (b.at(name, i) != tensor[j])
        expect_near(name, i, b.at(name, i), tensor[j], exact ? 0.0 : a.bound(name, j) + b.bound(name, i),
                    text);
    }
  }
}

void arrange_placement(Descriptor& d) {
  arrange_replayed_routing(d);
  if (d.ranks == 1 && d.E % 2 == 0) d.ranks = 2;
  d.rank_kind = RankKind::expert;
}
/// In a layer the weights are those of equal logits, 1 / k: nothing that counts is added to their sum.
void arrange_placement_exact(Descriptor& d) {
  d.config.norm_denominator = MoEConfig{}.norm_denominator;
  d.config.norm_eps = MoEConfig{}.norm_eps;
  arrange_exact(d);
  arrange_placement(d);
  d.score = ScoreFunc::softmax;
  d.before_topk = d.router_bias = false;
  d.logits = Logits::whole;
  d.aux = 0.0;
  d.scale = 1.0;
}

/// Data that shows who contributed: y[t, e] is x_t^2 times the weights of the slots with expert e, all of
/// them powers of two, exact in every dtype.
void every_slot_once(Implementation& impl, const Descriptor& d) {
  Call call = full_call(impl, d);
  for (auto& [name, tensor] : call.tensors)
    if (name.starts_with("params/") || name == "inputs/x")
      tensor = filled(tensor.dtype(), tensor.shape(), 0.0);
  for (std::int64_t e = 0; e < d.E; ++e) {
    call.tensors.at("params/gate_and_up_projs").set(e * d.D * d.I, 1.0);
    call.tensors.at("params/down_projs").set(e * d.I * d.D + e, 1.0);
  }
  const auto size_of_token = [](std::int64_t t) { return std::ldexp(1.0, static_cast<int>(t % 3)); };
  for (std::int64_t t = 0; t < d.T; ++t) call.tensors.at("inputs/x").set(t * d.D, size_of_token(t));
  const Answer a(impl, call);
  const std::vector<std::int64_t> ids = live_ids(a);
  const Tensor& w = call.tensors.at("inputs/weights");
  const Tensor* u = find(call.tensors, "cotangents/y");
  for (std::int64_t t = 0; t < d.T; ++t) {
    const double activation = size_of_token(t) * size_of_token(t);
    std::vector<double> want(static_cast<std::size_t>(d.D));
    for (std::int64_t i = t * d.k; i < (t + 1) * d.k; ++i) {
      const std::int64_t e = ids[static_cast<std::size_t>(i)];
      if (e >= 0) want[static_cast<std::size_t>(e)] += activation * w[i];
      if (u)
        expect_equal("grads/weights", i, a.at("grads/weights", i),
                     e < 0 ? 0.0 : activation * (*u)[t * d.D + e],
                     "each slot's weight gets the cotangent of its own expert's column");
    }
    for (std::int64_t c = 0; c < d.D; ++c)
      expect_equal("outputs/y", t * d.D + c, a.at("outputs/y", t * d.D + c),
                   want[static_cast<std::size_t>(c)],
                   "column e of y counts the slots with expert e, each once");
  }
}

void arrange_slots(Descriptor& d) {
  d.values = Values::exact;
  d.activation = ActivationKind::relu2;
  d.expert_bias = false;
  d.k = std::min<std::int64_t>(d.k, 8);
  if (d.ranks == 1 && d.E % 2 == 0) d.ranks = 2;
  d.E = std::min<std::int64_t>(d.E, 24);
  d.D = std::max(d.D, d.E);
}

const Property kParallelRankProperties[] = {
    {"P51",
     "expert_ranks",
     {Component::experts, Component::moe},
     PropertyClass::bounded,
     "1, 2, 4 and 8 expert-parallel ranks give the same outputs and gradients by either exchange",
     {"A20", "A21", "A22", "A48", "O18", "O19", "O38", "M18", "M20"},
     arrange_expert_ranks,
     [](Implementation& impl, const Descriptor& d) { expert_ranks(impl, d, false); },
     Passes::either},
    {"P51",
     "expert_ranks_exact",
     {Component::experts, Component::moe},
     PropertyClass::exact,
     "the number of expert-parallel ranks, to the bit on exact data",
     {"A20", "A21", "A48", "O18", "O19", "partial sums"},
     arrange_expert_ranks_exact,
     [](Implementation& impl, const Descriptor& d) { expert_ranks(impl, d, true); },
     Passes::either},
    {"P52",
     "expert_placement",
     {Component::experts, Component::moe},
     PropertyClass::bounded,
     "experts in another order, with their ids and gate rows, are the same layer",
     {"hard-coded owner", "O23"},
     arrange_placement,
     [](Implementation& impl, const Descriptor& d) { expert_placement(impl, d, false); },
     Passes::either},
    {"P52",
     "expert_placement_exact",
     {Component::experts, Component::moe},
     PropertyClass::exact,
     "experts in another order, to the bit on exact data",
     {"hard-coded owner", "O23"},
     arrange_placement_exact,
     [](Implementation& impl, const Descriptor& d) { expert_placement(impl, d, true); },
     Passes::either},
    {"P53",
     "rank_tokens",
     {Component::gate, Component::experts, Component::moe},
     PropertyClass::bounded,
     "how tokens are spread over ranks changes nothing, up to all on one rank",
     {"A22", "A24", "A25", "O38"},
     arrange_rank_tokens,
     rank_tokens,
     Passes::either},
    {"P54",
     "every_slot_once",
     {Component::experts},
     PropertyClass::exact,
     "every slot reaches its own expert once and comes back once",
     {"M20", "M32", "O16", "lost slots", "duplicated slots"},
     arrange_slots,
     every_slot_once,
     Passes::either},
    {"P55",
     "context_ranks",
     {Component::gate, Component::moe},
     PropertyClass::bounded,
     "context-parallel ranks give the loss, load and replicated gradients of the whole sequence",
     {"A8", "M33", "M3"},
     arrange_context_ranks,
     context_ranks,
     Passes::either},
};

}  // namespace

std::span<const Property> parallel_rank_properties() { return kParallelRankProperties; }

}  // namespace moeref
