// Wrong work on several ranks: see mutant.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

/// The ranks of an experts or layer call; 1 for any other.
std::int64_t expert_ranks(const Call& call) {
  if (!is(call, Component::experts) && !is(call, Component::moe)) return 1;
  return parse_call_options(call.options).parallel.ep_size;
}

/// The rank of each slot's expert, in blocks as large as can be; -1 for a slot without one.
std::vector<std::int64_t> homes(const Call& call) {
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::int64_t own = size(call, "n_routed_experts") / expert_ranks(call);
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < ids.size(); ++i)
    out.push_back(ids[i] < 0.0 ? -1 : static_cast<std::int64_t>(ids[i]) / own);
  return out;
}

/// The call without the slots that `lost` says.
template <typename F>
Call without_slots(Call call, F&& lost) {
  Tensor& ids = call.tensors.at("inputs/indices");
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && lost(i)) ids.set(i, -1.0);
  return call;
}

NamedTensors score_gradient_of_own_rank(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) || !call.backward || expert_ranks(call) == 1) return out;
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::vector<std::int64_t> owner = owners(call, ids.extent(0)), home = homes(call);
  change(out, "grads/weights", [&](std::int64_t i, double g) {
    return home[static_cast<std::size_t>(i)] == owner[static_cast<std::size_t>(i / ids.extent(1))] ? g : 0.0;
  });
  return out;
}

/// What other ranks' experts send back to x is lost.
NamedTensors x_gradient_of_own_rank(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || !call.backward || expert_ranks(call) == 1) return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::vector<std::int64_t> owner = owners(call, ids.extent(0)), home = homes(call);
  const Call near = without_slots(call, [&](std::int64_t i) {
    return home[static_cast<std::size_t>(i)] != owner[static_cast<std::size_t>(i / ids.extent(1))];
  });
  return with_results_of(sound, call, near, "grads/x");
}

/// Routing weights are gathered without a gradient: the gate has none but the loss's.
NamedTensors gate_gradient_lost_by_gather(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.backward || expert_ranks(call) == 1) return sound.run(call);
  Call quiet = call;
  fill(quiet, "cotangents/y", 0.0);
  return with_results_of(sound, call, quiet, "grads/gate.");
}

NamedTensors token_of_rank_one_dropped(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (expert_ranks(call) == 1) return out;
  const Tensor& y = out.at("outputs/y");
  const std::int64_t dim = y.shape().back(), tokens = dim > 0 ? y.size() / dim : 0;
  const std::vector<std::int64_t> owner = owners(call, tokens);
  const auto dropped = std::ranges::find(owner, 1) - owner.begin();
  change(out, "outputs/y", [&](std::int64_t i, double value) { return i / dim == dropped ? 0.0 : value; });
  return out;
}

/// Of a token's slots on one rank only the first travels.
NamedTensors one_slot_for_each_rank(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || expert_ranks(call) == 1) return sound.run(call);
  const std::vector<std::int64_t> home = homes(call);
  const std::int64_t k = call.tensors.at("inputs/indices").extent(1);
  return sound.run(without_slots(call, [&](std::int64_t i) {
    const auto first = home.begin() + i / k * k, own = home.begin() + i;
    return std::find(first, own, *own) != own;
  }));
}

/// What comes back from several ranks overwrites instead of adding up.
NamedTensors last_rank_wins(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || expert_ranks(call) == 1) return sound.run(call);
  const std::vector<std::int64_t> home = homes(call);
  const std::int64_t k = call.tensors.at("inputs/indices").extent(1);
  return sound.run(without_slots(call, [&](std::int64_t i) {
    const auto first = home.begin() + i / k * k;
    return home[static_cast<std::size_t>(i)] != *std::max_element(first, first + k);
  }));
}

/// Every rank takes the same number of tokens: those beyond an even share are lost.
NamedTensors even_shares_assumed(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || expert_ranks(call) == 1) return sound.run(call);
  const std::int64_t tokens = call.tensors.at("inputs/x").extent(0), ranks = expert_ranks(call),
                     k = call.tensors.at("inputs/indices").extent(1);
  const std::vector<std::int64_t> owner = owners(call, tokens);
  const auto lost = [&](std::int64_t t) {
    const std::int64_t rank = owner[static_cast<std::size_t>(t)];
    return t - (std::ranges::find(owner, rank) - owner.begin()) >= (tokens + ranks - 1) / ranks;
  };
  return sound.run(without_slots(call, [&](std::int64_t i) { return lost(i / k); }));
}

/// A rank without tokens of its own leaves the backward pass early.
NamedTensors idle_rank_gives_no_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t ranks = expert_ranks(call), experts = ranks > 1 ? size(call, "n_routed_experts") : 0;
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  if (experts == 0 || parallel.tokens_per_rank.empty()) return out;
  for (const std::string_view tensor : kExpertTensors) {
    const std::string grad = expert_tensor(call.component, "grads", tensor);
    const std::int64_t width = out.contains(grad) ? out.at(grad).size() / experts : 0;
    change(out, grad, [&](std::int64_t i, double g) {
      const auto rank = static_cast<std::size_t>(i / width / (experts / ranks));
      return parallel.tokens_per_rank[rank] == 0 ? 0.0 : g;
    });
  }
  return out;
}

/// Tokens go to expert e on rank e mod R, parameters lie there in blocks.
NamedTensors experts_dealt_in_turn(Implementation& sound, const Call& call) {
  const std::int64_t ranks = expert_ranks(call);
  if (ranks == 1) return sound.run(call);
  const std::int64_t experts = size(call, "n_routed_experts"), own = experts / ranks;
  std::vector<std::int64_t> order;
  for (std::int64_t e = 0; e < experts; ++e) order.push_back(e % ranks * own + e / ranks);
  Call dealt = call;
  for (const std::string_view tensor : kExpertTensors)
    take_in(dealt, expert_tensor(call.component, "params", tensor), 0, order);
  return sound.run(dealt);
}

/// A number that every expert but the first lacks.
NamedTensors first_expert_counts_twice(Implementation& sound, const Call& call) {
  if (!has_weights(call)) return sound.run(call);
  Call more = call;
  change_slice(more.tensors.at("params/down_projs"), 0, [](double v) { return 2.0 * v; });
  return sound.run(more);
}

/// The layer call as one rank sees it that holds the first tokens and no others.
Call first_rank_of_sequence(const Call& call) {
  Call local = call;
  for (const char* option : {"cp_size", "tokens_per_rank"}) local.options.erase(option);
  const Tensor& x = call.tensors.at("inputs/x");
  const Shape shape(x.shape().begin(), x.shape().end() - 1);
  const std::int64_t tokens = element_count(shape);
  const std::vector<std::int64_t> owner = owners(call, tokens);
  Tensor& mask = local.tensors["inputs/padding_mask"];
  if (mask.shape() != shape || mask.dtype() != DType::boolean) mask = filled(DType::boolean, shape, 0.0);
  for (std::int64_t t = 0; t < tokens; ++t)
    if (owner[static_cast<std::size_t>(t)] != 0) mask.set(t, 1.0);
  return local;
}

bool on_context_ranks(const Call& call) {
  return is(call, Component::moe) && parse_call_options(call.options).parallel.cp_size > 1;
}

NamedTensors loss_of_first_context_rank(Implementation& sound, const Call& call) {
  if (!on_context_ranks(call)) return sound.run(call);
  return with_results_of(sound, call, first_rank_of_sequence(call), "outputs/aux_loss");
}

/// Gradients of parameters that every rank holds are not summed over the ranks.
NamedTensors replicated_gradient_not_reduced(Implementation& sound, const Call& call) {
  if (!on_context_ranks(call) || !call.backward) return sound.run(call);
  return with_results_of(sound, call, first_rank_of_sequence(call), "grads/gate.");
}

}  // namespace

std::span<const Mutant> rank_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "score_gradient_of_own_rank",
       .bug = "O18",
       .source = "HF transformers #48205",
       .components = {Component::experts},
       .does = "the gradient of a routing weight counts the experts of its own rank alone",
       .shows = "G R",
       .first_wrong = "grads/weights",
       .property = "expert_ranks rank_tokens",
       .run = score_gradient_of_own_rank},
      {.name = "x_gradient_of_own_rank",
       .bug = "A21",
       .source = "NeMo AutoModel #1260",
       .components = {Component::experts},
       .does = "what experts of other ranks send back to x is lost",
       .shows = "G R",
       .first_wrong = "grads/x",
       .property = "expert_ranks expert_ranks_exact",
       .run = x_gradient_of_own_rank},
      {.name = "gate_gradient_lost_by_gather",
       .bug = "A20",
       .source = "NeMo AutoModel #2995",
       .components = {Component::moe},
       .does = "routing weights are gathered without a gradient",
       .shows = "G R",
       .first_wrong = "grads/gate.*",
       .property = "expert_ranks",
       .run = gate_gradient_lost_by_gather},
      {.name = "token_of_rank_one_dropped",
       .bug = "O38",
       .source = "DeepEP #604",
       .components = {Component::experts, Component::moe},
       .does = "the first token of rank 1 gets no output",
       .shows = "R",
       .first_wrong = "outputs/y",
       .property = "expert_ranks_exact every_slot_once",
       .run = token_of_rank_one_dropped},
      {.name = "one_slot_for_each_rank",
       .bug = "M20",
       .source = "Megatron-LM 254c87400f",
       .components = {Component::experts},
       .does = "of the slots of a token on one rank the first alone travels",
       .shows = "R",
       .first_wrong = "outputs/y",
       .property = "every_slot_once",
       .run = one_slot_for_each_rank},
      {.name = "last_rank_wins",
       .components = {Component::experts},
       .does = "what comes back from several ranks overwrites in place of adding up",
       .shows = "R",
       .first_wrong = "outputs/y",
       .property = "every_slot_once expert_ranks_exact",
       .run = last_rank_wins},
      {.name = "even_shares_assumed",
       .bug = "A22",
       .source = "NeMo AutoModel #1365",
       .components = {Component::experts},
       .does = "tokens beyond an even share of a rank are lost",
       .shows = "R",
       .first_wrong = "outputs/y",
       .property = "rank_tokens expert_ranks",
       .run = even_shares_assumed},
      {.name = "idle_rank_gives_no_gradient",
       .bug = "A24",
       .source = "NeMo AutoModel #935",
       .components = {Component::experts, Component::moe},
       .does = "the experts of a rank without tokens get no gradient",
       .shows = "G R",
       .first_wrong = "grads/*",
       .property = "rank_tokens expert_ranks_exact",
       .run = idle_rank_gives_no_gradient},
      {.name = "experts_dealt_in_turn",
       .components = {Component::experts, Component::moe},
       .does = "tokens go to expert e on rank e mod R, where parameters lie in blocks",
       .shows = "R",
       .first_wrong = "outputs/y",
       .property = "expert_ranks expert_placement_exact",
       .run = experts_dealt_in_turn},
      {.name = "first_expert_counts_twice",
       .components = {Component::experts},
       .does = "the output of the first expert is doubled",
       .first_wrong = "outputs/y",
       .property = "expert_placement",
       .run = first_expert_counts_twice},
      {.name = "layer_loss_of_first_rank",
       .bug = "A8",
       .source = "NeMo AutoModel #1412",
       .components = {Component::moe},
       .does = "the auxiliary loss is that of the first context-parallel rank",
       .shows = "R",
       .first_wrong = "outputs/aux_loss",
       .property = "context_ranks",
       .run = loss_of_first_context_rank},
      {.name = "replicated_gradient_not_reduced",
       .components = {Component::moe},
       .does = "gradients of the gate are not summed over the ranks",
       .shows = "G R",
       .first_wrong = "grads/gate.*",
       .property = "context_ranks",
       .run = replicated_gradient_not_reduced},
  };
  return kRows;
}

}  // namespace moeref
