#include "property_tests/suite/tests/planted_bugs.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "property_tests/router/router_oracle.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::int64_t size(const Call& call, const char* field) { return call.config.at(field).get<std::int64_t>(); }

bool is(const Call& call, Component component) { return call.component == component; }

/// The sound results of the same call with other experts.
NamedTensors with_ids(Implementation& sound, Call call, const std::vector<std::int64_t>& ids) {
  const std::int64_t k = size(call, "n_activated_experts");
  call.tensors["inputs/replay_indices"] = Tensor::of({static_cast<std::int64_t>(ids.size()) / k, k}, ids);
  return sound.run(call);
}

/// The sound results with one tensor, or those of one group, taken from another call.
NamedTensors with_part(Implementation& sound, const Call& call, const Call& other, std::string_view prefix) {
  NamedTensors out = sound.run(call);
  for (auto& [name, tensor] : sound.run(other))
    if (name.starts_with(prefix)) out[name] = tensor;
  return out;
}

NamedTensors weights_from_biased_scores(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  return with_part(sound, call, with_config(call, {{"router_weight_uses_score_correction_bias", true}}),
                   "outputs/weights");
}

NamedTensors top1_renormalised(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::gate) && size(call, "n_activated_experts") == 1 &&
      call.config.at("norm_topk_prob") == true) {
    Tensor& w = out.at("outputs/weights");
    w = filled(w.dtype(), w.shape(), call.config.at("route_scale"));
  }
  return out;
}

NamedTensors mask_ignored_in_load(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  return with_part(sound, call, open, "outputs/expert_load");
}

NamedTensors aux_loss_without_mean(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::aux_loss)) {
    Tensor& loss = out.at("outputs/aux_loss");
    loss.set(0, loss[0] * static_cast<double>(require(call.tensors, "inputs/indices").extent(0)));
  }
  return out;
}

NamedTensors bias_step_reversed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, bias] : out)
    if (is(call, Component::bias_update) && name.starts_with("outputs/e_score_correction_bias"))
      for (std::int64_t e = 0; e < bias.size(); ++e)
        bias.set(e, 2.0 * require(call.tensors, "params/e_score_correction_bias")[e] - bias[e]);
  return out;
}

NamedTensors ties_take_highest_id(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || call.tensors.contains("inputs/replay_indices")) return sound.run(call);
  const std::int64_t experts = size(call, "n_routed_experts");
  std::vector<std::int64_t> reversed(static_cast<std::size_t>(experts));
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  Call mirrored = call;
  for (const char* rows : {"params/weight", "params/bias", "params/e_score_correction_bias"})
    take_in(mirrored, rows, 0, reversed);
  std::vector<std::int64_t> ids;
  for (const double id : sound.run(mirrored).at("outputs/indices").doubles())
    ids.push_back(experts - 1 - static_cast<std::int64_t>(id));
  return with_ids(sound, call, ids);
}

/// Each token's ids chosen by `choose` from the exact logits and scores.
template <typename Choose>
NamedTensors reselected(Implementation& sound, const Call& call, Choose&& choose) {
  if (!is(call, Component::gate) || call.tensors.contains("inputs/replay_indices")) return sound.run(call);
  std::vector<std::int64_t> ids;
  const Matrix z = logits_of(call);
  const std::vector<double> own = sound.run(call).at("outputs/indices").doubles();
  const std::int64_t k = size(call, "n_activated_experts");
  for (std::int64_t t = 0; t < z.rows; ++t) {
    std::vector<std::int64_t> chosen = choose(z, t, k);
    for (std::int64_t j = 0; j < k; ++j)
      ids.push_back(chosen.empty() ? static_cast<std::int64_t>(own[static_cast<std::size_t>(t * k + j)])
                                   : chosen[static_cast<std::size_t>(j)]);
  }
  return with_ids(sound, call, ids);
}

NamedTensors maximum_starts_at_zero(Implementation& sound, const Call& call) {
  return reselected(sound, call, [](const Matrix& z, std::int64_t t, std::int64_t k) {
    std::vector<std::int64_t> first;
    for (std::int64_t e = 0; e < z.cols; ++e)
      if (z.at(t, e) >= 0.0) return first;
    for (std::int64_t e = 0; e < k; ++e) first.push_back(e);
    return first;
  });
}

NamedTensors selects_by_magnitude(Implementation& sound, const Call& call) {
  return reselected(sound, call, [](Matrix z, std::int64_t t, std::int64_t k) {
    for (double& value : z.values) value = std::abs(value);
    return largest(z, t, k);
  });
}

NamedTensors group_score_is_maximum(Implementation& sound, const Call& call) {
  const std::int64_t groups = is(call, Component::gate) ? size(call, "n_expert_groups") : 1;
  if (groups == 1 || call.config.at("score_func") != "sigmoid") return sound.run(call);
  // Without a bias the documented system takes the maximum: so the group scores of the biased scores, given
  // as logits.
  return reselected(sound, call, [&](const Matrix& z, std::int64_t t, std::int64_t k) {
    const Tensor* c = find(call.tensors, "params/e_score_correction_bias");
    const std::int64_t width = z.cols / groups;
    Matrix q{1, z.cols, {}},
        best{1, groups, std::vector<double>(static_cast<std::size_t>(groups), -INFINITY)};
    for (std::int64_t e = 0; e < z.cols; ++e) {
      q.values.push_back(1.0 / (1.0 + std::exp(-z.at(t, e))) + (c ? (*c)[e] : 0.0));
      best.at(0, e / width) = std::max(best.at(0, e / width), q.values.back());
    }
    const std::vector<std::int64_t> kept = largest(best, 0, size(call, "n_limited_groups"));
    for (std::int64_t e = 0; e < z.cols; ++e)
      if (std::ranges::find(kept, e / width) == kept.end()) q.at(0, e) = 0.0;
    return largest(q, 0, k);
  });
}

NamedTensors discarded_groups_excluded(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || call.config.at("score_func") != "sigmoid") return sound.run(call);
  if (!find(call.tensors, "params/e_score_correction_bias")) return sound.run(call);
  return sound.run(with_config(call, {{"score_func", "sigmoid_with_bias"}}));
}

NamedTensors two_tokens_swapped(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || out.at("outputs/indices").extent(0) < 2) return out;
  for (const char* name : {"outputs/indices", "outputs/weights"}) {
    std::vector<std::int64_t> order(static_cast<std::size_t>(out.at(name).extent(0)));
    std::iota(order.begin(), order.end(), 0);
    std::swap(order[0], order[1]);
    out[name] = take(out.at(name), 0, order);
  }
  return out;
}

NamedTensors loss_of_unnormalised_scores(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  return with_part(sound, call, with_config(call, {{"norm_topk_prob", false}}), "outputs/aux_loss");
}

NamedTensors scaled_twice(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::gate))
    out["outputs/weights"] = scaled(out.at("outputs/weights"), call.config.at("route_scale"));
  return out;
}

NamedTensors softmax_order_mixed_up(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  const bool before = call.config.value("softmax_before_topk", false);
  return sound.run(with_config(call, {{"softmax_before_topk", !before}}));
}

NamedTensors softmax_overflows(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate) || !call.config.at("score_func").get<std::string>().starts_with("softmax"))
    return out;
  Tensor& w = out.at("outputs/weights");
  for (const double z : logits_of(call).values)
    if (z > 88.0) w = filled(w.dtype(), w.shape(), kNaN);
  return out;
}

NamedTensors loss_gradient_dropped(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward) return sound.run(call);
  return with_part(sound, call, with_config(call, {{"aux_loss_coeff", 0.0}}), "grads/");
}

NamedTensors loss_gradient_times_tokens(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward || call.config.at("aux_loss_coeff") == 0.0)
    return sound.run(call);
  const double tokens = static_cast<double>(require(call.tensors, "inputs/x").extent(0));
  return with_part(sound, call, with_config(call, {{"aux_loss_coeff", std::max(tokens, 1.0)}}), "grads/");
}

NamedTensors loss_reaches_masked_tokens(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate) || !call.backward) return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  return with_part(sound, call, open, "grads/");
}

NamedTensors replay_without_gradient(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::gate) && call.backward && call.tensors.contains("inputs/replay_indices"))
    for (auto& [name, tensor] : out)
      if (name.starts_with("grads/")) tensor = filled(tensor.dtype(), tensor.shape(), 0.0);
  return out;
}

/// The call with all tokens masked but those of the first rank.
Call first_rank_only(const Call& call, const char* mask_stem) {
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  Call out = call;
  if (parallel.size() == 1) return out;
  for (const char* option : {"cp_size", "dp_size", "tokens_per_rank"}) out.options.erase(option);
  for (const auto& [name, x] : call.tensors) {
    if (!name.starts_with("inputs/x")) continue;
    const std::int64_t tokens = x.extent(0);
    const std::int64_t own = parallel.tokens_per_rank.empty()
                                 ? (tokens + parallel.size() - 1) / parallel.size()
                                 : parallel.tokens_per_rank.front();
    Tensor& mask = out.tensors[mask_stem + name.substr(std::string("inputs/x").size())];
    if (mask.size() != tokens || mask.dtype() != DType::boolean) mask = filled(DType::boolean, {tokens}, 1.0);
    for (std::int64_t t = own; t < tokens; ++t) mask.set(t, 0.0);
  }
  return out;
}

NamedTensors loss_of_first_rank(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  return with_part(sound, call, first_rank_only(call, "inputs/token_mask"), "outputs/aux_loss");
}

NamedTensors update_from_local_load(Implementation& sound, const Call& call) {
  if (!is(call, Component::bias_update)) return sound.run(call);
  return with_part(sound, call, first_rank_only(call, "inputs/token_mask"),
                   "outputs/e_score_correction_bias");
}

NamedTensors load_counted_twice(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, load] : out)
    if (name.starts_with("outputs/cumulative_expert_load")) load = scaled(load, 2.0);
  return out;
}

/// The bias in 16 bits between rounds: steps of 2^-10 vanish beside 1/2.
NamedTensors bias_kept_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (auto& [name, bias] : out)
    if (name.starts_with("outputs/e_score_correction_bias"))
      bias = bias.cast(DType::bfloat16).cast(DType::float64);
  return out;
}

NamedTensors not_a_number_spreads(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate)) return out;
  Tensor& w = out.at("outputs/weights");
  for (const double x : require(call.tensors, "inputs/x").doubles())
    if (!std::isfinite(x)) w = filled(w.dtype(), w.shape(), kNaN);
  return out;
}

NamedTensors ranks_share_a_seed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const std::int64_t ranks = parse_call_options(call.options).parallel.ep_size;
  for (auto& [name, tensor] : out) {
    if (!is(call, Component::init) || !name.starts_with("outputs/experts.")) continue;
    const std::int64_t own = tensor.extent(0) / ranks;
    std::vector<std::int64_t> order;
    for (std::int64_t e = 0; e < tensor.extent(0); ++e) order.push_back(e % own);
    tensor = take(tensor, 0, order);
  }
  return out;
}

NamedTensors deviation_taken_for_variance(Implementation& sound, const Call& call) {
  if (!is(call, Component::init)) return sound.run(call);
  Call other = call;
  other.options["init_std"] = std::sqrt(parse_call_options(call.options).init_std);
  return sound.run(other);
}

NamedTensors population_deviation(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::metrics)) {
    const auto n = static_cast<double>(size(call, "n_routed_experts"));
    out["outputs/cv"] = scaled(out.at("outputs/cv"), std::sqrt((n - 1.0) / n));
  }
  return out;
}

NamedTensors skip_ignored(Implementation& sound, const Call& call) {
  if (!is(call, Component::fake_balanced_gate)) return sound.run(call);
  Call other = call;
  other.options.erase("skip_first_n_experts");
  return sound.run(other);
}

constexpr PlantedBug kBugs[] = {
    {"weights_from_biased_scores", "O1", "unbiased_weights", weights_from_biased_scores},
    {"top1_renormalised", "O30", "unbiased_weights", top1_renormalised},
    {"mask_ignored_in_load", "M1", "load_counts", mask_ignored_in_load},
    {"aux_loss_without_mean", "A2", "uniform_loss", aux_loss_without_mean},
    {"bias_step_reversed", "", "sign_rule", bias_step_reversed},
    {"bias_step_reversed", "", "bias_update_state_machine", bias_step_reversed},
    {"ties_take_highest_id", "A41", "lowest_id_ties", ties_take_highest_id},
    {"maximum_starts_at_zero", "O5", "all_negative_logits", maximum_starts_at_zero},
    {"selects_by_magnitude", "", "temperature", selects_by_magnitude},
    {"selects_by_magnitude", "", "monotone_score_map", selects_by_magnitude},
    {"group_score_is_maximum", "O2", "group_selection", group_score_is_maximum},
    {"discarded_groups_excluded", "O2", "zero_beats_negative", discarded_groups_excluded},
    {"two_tokens_swapped", "", "token_permutation", two_tokens_swapped},
    {"two_tokens_swapped", "", "lone_tokens", two_tokens_swapped},
    {"loss_of_unnormalised_scores", "A6", "gate_loss", loss_of_unnormalised_scores},
    {"scaled_twice", "O7", "weight_sums", scaled_twice},
    {"softmax_order_mixed_up", "A38", "weight_sums", softmax_order_mixed_up},
    {"softmax_overflows", "", "large_logit_shift", softmax_overflows},
    {"loss_gradient_dropped", "A1", "loss_gradient", loss_gradient_dropped},
    {"loss_gradient_times_tokens", "A2", "linear_coefficient", loss_gradient_times_tokens},
    {"loss_reaches_masked_tokens", "O33", "masked_gradient", loss_reaches_masked_tokens},
    {"replay_without_gradient", "A16", "replay_other_experts", replay_without_gradient},
    {"loss_of_first_rank", "A8", "context_parallel_loss", loss_of_first_rank},
    {"update_from_local_load", "A12", "data_parallel_update", update_from_local_load},
    {"load_counted_twice", "A14", "cumulative_load", load_counted_twice},
    {"bias_kept_in_bfloat16", "A11", "sign_rule", bias_kept_in_bfloat16},
    {"not_a_number_spreads", "A23", "poisoned_token", not_a_number_spreads},
    {"ranks_share_a_seed", "M21", "init_rank_count", ranks_share_a_seed},
    {"deviation_taken_for_variance", "", "normal_values", deviation_taken_for_variance},
    {"population_deviation", "", "metric_definitions", population_deviation},
    {"skip_ignored", "", "experts_in_turn", skip_ignored},
};

}  // namespace

std::span<const PlantedBug> planted_router_bugs() { return kBugs; }

}  // namespace moeref
