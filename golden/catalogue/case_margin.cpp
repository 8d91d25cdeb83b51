#include "golden/catalogue/case_margin.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>

#include "moeref/config.hpp"
#include "moeref/error.hpp"

namespace moeref {
namespace {

// A layer of 256 experts in bfloat16 needs some tens of draws for its closest tokens.
constexpr int kDraws = 400;

/// Whether the `count` largest are decided by `margin` times the bounds; `selected` tells which they are.
bool decided(std::span<const double> score, std::span<const double> bound, std::int64_t count, double margin,
             std::vector<bool>& selected) {
  std::vector<std::size_t> order(score.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return score[a] > score[b]; });
  selected.assign(score.size(), false);
  double least = std::numeric_limits<double>::infinity(), most = -least;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const std::size_t i = order[rank];
    selected[i] = static_cast<std::int64_t>(rank) < count;
    if (selected[i])
      least = std::min(least, score[i] - margin * bound[i]);
    else
      most = std::max(most, score[i] + margin * bound[i]);
  }
  return least > most || count >= static_cast<std::int64_t>(score.size());
}

std::span<const double> row_of(const std::vector<double>& values, std::int64_t row, std::int64_t width) {
  return std::span(values).subspan(static_cast<std::size_t>(row * width), static_cast<std::size_t>(width));
}

bool is_close(const RoutingScores& r, std::int64_t token, double margin) {
  const std::span<const double> given = row_of(r.score, token, r.experts),
                                bound = row_of(r.score_bound, token, r.experts);
  const auto ordered = [](double v) { return !std::isnan(v); };
  const auto finite = [](double v) { return std::isfinite(v); };
  if (!std::ranges::all_of(given, ordered) || !std::ranges::all_of(bound, finite)) return false;
  std::vector<double> score(given.begin(), given.end()), error(bound.begin(), bound.end());
  std::vector<bool> kept;
  if (!r.group.empty()) {
    if (!decided(row_of(r.group, token, r.groups), row_of(r.group_bound, token, r.groups), r.limited_groups,
                 margin, kept))
      return true;
    const std::int64_t size = r.experts / r.groups;
    for (std::int64_t e = 0; e < r.experts; ++e) {
      if (kept[static_cast<std::size_t>(e / size)]) continue;
      score[static_cast<std::size_t>(e)] =
          r.discarded_groups_are_zero ? 0.0 : -std::numeric_limits<double>::infinity();
      error[static_cast<std::size_t>(e)] = 0.0;
    }
  }
  return !decided(score, error, r.k, margin, kept);
}

/// Draws one token's row of an x again.
void redraw(const CaseSpec& spec, const std::string& tensor, int attempt, std::int64_t token, Tensor& x) {
  redraw_row(choice_of(spec.data, DataRole::x), {spec.seed, tensor, attempt}, 1, token, x);
}

[[noreturn]] void give_up(const CaseSpec& spec, const std::string& tensor, std::int64_t token) {
  throw InputError(
      "token " + std::to_string(token) + " of '" + tensor + "' has no selection margin of " +
      nlohmann::json(spec.margin).dump() + " times its bounds in " + std::to_string(kDraws) +
      " draws: want a lower \"margin\" (0 if the case is about ties), fewer experts or a finer dtype");
}

/// Some rows of a tensor by tokens.
Tensor rows_of(const Tensor& all, const std::vector<std::int64_t>& tokens) {
  const std::int64_t width = all.shape().back();
  Tensor out(all.dtype(), {static_cast<std::int64_t>(tokens.size()), width});
  const auto row_bytes = static_cast<std::size_t>(width * size_of(all.dtype()));
  for (std::size_t i = 0; i < tokens.size(); ++i)
    std::ranges::copy(all.bytes().subspan(static_cast<std::size_t>(tokens[i]) * row_bytes, row_bytes),
                      out.bytes().subspan(i * row_bytes).begin());
  return out;
}

/// The gate of a gate or moe call alone, for some of its tokens.
Call gate_of(const Call& call, const std::vector<std::int64_t>& tokens) {
  Call gate{Component::gate, call.config, nlohmann::json::object(), {}, false};
  for (const char* option : {"gate_precision", "training"})
    if (call.options.contains(option)) gate.options[option] = call.options[option];
  leave_out_losses(gate.config);  // of all tokens alone
  for (const char* limit : {"capacity_factor", "expert_capacity"}) gate.config.erase(limit);
  for (const char* name : {"inputs/x", "inputs/router_noise"})
    if (const Tensor* all = find(call.tensors, name)) gate.tensors.emplace(name, rows_of(*all, tokens));
  const std::string prefix = call.component == Component::moe ? "params/gate." : "params/";
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with(prefix)) gate.tensors.emplace("params/" + name.substr(prefix.size()), tensor);
  return gate;
}

/// Selection is token by token, so only the tokens drawn last are looked at again.
void ensure_gate(const CaseSpec& spec, Call& call) {
  Tensor& x = call.tensors.at("inputs/x");
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(element_count(spec.tokens)));
  std::iota(tokens.begin(), tokens.end(), 0);
  for (int attempt = 1; !tokens.empty(); ++attempt) {
    const Evaluation gate = evaluate(gate_of(call, tokens));
    std::vector<std::int64_t> close;
    for (const RoutingScores& routing : gate.routing)
      for (const std::int64_t i : close_tokens(routing, spec.margin))
        close.push_back(tokens[static_cast<std::size_t>(i)]);
    if (!close.empty() && attempt > kDraws) give_up(spec, "inputs/x", close.front());
    for (const std::int64_t token : close) redraw(spec, "inputs/x", attempt, token, x);
    tokens = std::move(close);
  }
}

/// Later rounds route with a bias that earlier ones moved, so the whole call is looked at again, and only the
/// first round with close tokens is redrawn at a time.
void ensure_bias_update(const CaseSpec& spec, Call& call) {
  for (int attempt = 1;; ++attempt) {
    bool redrawn = false;
    std::string round;
    for (const RoutingScores& routing : evaluate(call).routing) {
      const std::string at = routing.indices.substr(std::string("outputs/indices").size());  // "_S_M"
      const std::string this_round = at.substr(0, at.find('_', 1));
      if (redrawn && this_round != round) break;
      for (const std::int64_t token : close_tokens(routing, spec.margin)) {
        const std::string tensor = "inputs/x" + at;
        if (attempt > kDraws) give_up(spec, tensor, token);
        redraw(spec, tensor, attempt, token, call.tensors.at(tensor));
        redrawn = true;
        round = this_round;
      }
    }
    if (!redrawn) return;
  }
}

}  // namespace

std::vector<std::int64_t> close_tokens(const RoutingScores& routing, double margin) {
  std::vector<std::int64_t> close;
  for (std::int64_t t = 0; t < routing.tokens; ++t)
    if (is_close(routing, t, margin)) close.push_back(t);
  return close;
}

void ensure_margin(const CaseSpec& spec, Call& call) {
  if (spec.margin == 0.0) return;
  // What a token chooses there depends on all others, which drawing it again would move.
  if (spec.config.value("selection_scores", "") == name(SelectionScores::sinkhorn)) return;
  for (const auto& [name, tensor] : call.tensors)
    if (name.starts_with("inputs/replay_indices")) return;
  if (spec.component == Component::bias_update) return ensure_bias_update(spec, call);
  const bool routes =
      spec.component == Component::gate ||
      (spec.component == Component::moe && !parse_call_options(spec.options).fake_balanced_gate);
  if (routes) ensure_gate(spec, call);
}

}  // namespace moeref
