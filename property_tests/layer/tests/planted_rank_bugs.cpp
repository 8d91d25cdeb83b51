// Wrong work on several ranks: see planted_bugs.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/layer/tests/layer_bug_parts.hpp"

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
  if (!is(call, Component::experts)) return sound.run(call);
  Call more = call;
  change_slice(more.tensors.at("params/down_projs"), 0, [](double v) { return 2.0 * v; });
  return sound.run(more);
}

/// The layer call as one rank sees it that holds the first tokens and no others.
Call first_rank_of_sequence(const Call& call) {
  Call local = call;
  for (const char* option : {"cp_size", "tokens_per_rank"}) local.options.erase(option);
  const std::int64_t tokens = call.tensors.at("inputs/x").extent(0);
  const std::vector<std::int64_t> owner = owners(call, tokens);
  Tensor& mask = local.tensors["inputs/padding_mask"];
  if (mask.size() != tokens || mask.dtype() != DType::boolean) mask = filled(DType::boolean, {tokens}, 0.0);
  for (std::int64_t t = 0; t < tokens; ++t)
    if (owner[static_cast<std::size_t>(t)] != 0) mask.set(t, 1.0);
  return local;
}

bool on_context_ranks(const Call& call) {
  return is(call, Component::moe) && parse_call_options(call.options).parallel.cp_size > 1;
}

NamedTensors loss_of_first_rank(Implementation& sound, const Call& call) {
  if (!on_context_ranks(call)) return sound.run(call);
  return with_results_of(sound, call, first_rank_of_sequence(call), "outputs/aux_loss");
}

/// Gradients of parameters that every rank holds are not summed over the ranks.
NamedTensors replicated_gradient_not_reduced(Implementation& sound, const Call& call) {
  if (!on_context_ranks(call) || !call.backward) return sound.run(call);
  return with_results_of(sound, call, first_rank_of_sequence(call), "grads/gate.");
}

constexpr PlantedBug kBugs[] = {
    {"score_gradient_of_own_rank", "O18", "expert_ranks", score_gradient_of_own_rank},
    {"score_gradient_of_own_rank", "O18", "rank_tokens", score_gradient_of_own_rank},
    {"x_gradient_of_own_rank", "A21", "expert_ranks", x_gradient_of_own_rank},
    {"x_gradient_of_own_rank", "A21", "expert_ranks_exact", x_gradient_of_own_rank},
    {"gate_gradient_lost_by_gather", "A20", "expert_ranks", gate_gradient_lost_by_gather},
    {"token_of_rank_one_dropped", "O38", "expert_ranks_exact", token_of_rank_one_dropped},
    {"token_of_rank_one_dropped", "O38", "every_slot_once", token_of_rank_one_dropped},
    {"one_slot_for_each_rank", "M20", "every_slot_once", one_slot_for_each_rank},
    {"last_rank_wins", "", "every_slot_once", last_rank_wins},
    {"last_rank_wins", "", "expert_ranks_exact", last_rank_wins},
    {"even_shares_assumed", "A22", "rank_tokens", even_shares_assumed},
    {"even_shares_assumed", "A22", "expert_ranks", even_shares_assumed},
    {"idle_rank_gives_no_gradient", "A24", "rank_tokens", idle_rank_gives_no_gradient},
    {"idle_rank_gives_no_gradient", "A24", "expert_ranks_exact", idle_rank_gives_no_gradient},
    {"experts_dealt_in_turn", "", "expert_ranks", experts_dealt_in_turn},
    {"experts_dealt_in_turn", "", "expert_placement_exact", experts_dealt_in_turn},
    {"first_expert_counts_twice", "", "expert_placement", first_expert_counts_twice},
    {"loss_of_first_rank", "A8", "context_ranks", loss_of_first_rank},
    {"replicated_gradient_not_reduced", "", "context_ranks", replicated_gradient_not_reduced},
};

}  // namespace

std::span<const PlantedBug> planted_rank_bugs() { return kBugs; }

}  // namespace moeref
