// Wrong gates in their forward pass.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

/// The sound results of the same call with other experts.
NamedTensors with_ids(Implementation& sound, Call call, const std::vector<std::int64_t>& ids) {
  const std::int64_t k = size(call, "n_activated_experts");
  call.tensors["inputs/replay_indices"] = Tensor::of({static_cast<std::int64_t>(ids.size()) / k, k}, ids);
  return sound.run(call);
}

NamedTensors weights_from_biased_scores(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  return with_results_of(sound, call, with_config(call, {{"router_weight_uses_score_correction_bias", true}}),
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
  return with_results_of(sound, call, open, "outputs/expert_load");
}

NamedTensors loss_over_padding(Implementation& sound, const Call& call) {
  Call open = call;
  if (open.tensors.erase("inputs/token_mask") + open.tensors.erase("inputs/padding_mask") == 0)
    return sound.run(call);
  return with_results_of(sound, call, open, "outputs/aux_loss");
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
  return with_results_of(sound, call, with_config(call, {{"norm_topk_prob", false}}), "outputs/aux_loss");
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
    if (z > 88.0) w = filled(w.dtype(), w.shape(), kNotANumber);
  return out;
}

NamedTensors loss_of_first_rank(Implementation& sound, const Call& call) {
  if (!is(call, Component::gate)) return sound.run(call);
  return with_results_of(sound, call, first_rank_only(call, "inputs/token_mask"), "outputs/aux_loss");
}

NamedTensors not_a_number_spreads(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::gate)) return out;
  Tensor& w = out.at("outputs/weights");
  for (const double x : require(call.tensors, "inputs/x").doubles())
    if (!std::isfinite(x)) w = filled(w.dtype(), w.shape(), kNotANumber);
  return out;
}

}  // namespace

std::span<const Mutant> gate_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "weights_from_biased_scores",
       .bug = "O1",
       .source = "vLLM #12002, HF transformers #41647",
       .components = {Component::gate},
       .does = "routing weights are the scores with the correction bias, which is for the choice alone",
       .first_wrong = "outputs/weights",
       .property = "unbiased_weights bias_invariance",
       .run = weights_from_biased_scores},
      {.name = "top1_renormalised",
       .bug = "O30",
       .source = "megablocks #87",
       .components = {Component::gate},
       .does = "one selected expert is normalised too, so that its weight is 1",
       .first_wrong = "outputs/weights",
       .property = "unbiased_weights",
       .run = top1_renormalised},
      {.name = "mask_ignored_in_load",
       .bug = "M1",
       .source = "Megatron-LM #6114",
       .components = {Component::gate},
       .does = "padding counts in the load",
       .first_wrong = "outputs/expert_load",
       .property = "load_counts",
       .run = mask_ignored_in_load},
      {.name = "loss_over_padding",
       .bug = "O33",
       .source = "HF transformers #28517",
       .components = {Component::gate, Component::moe},
       .does = "the auxiliary loss is averaged over all tokens, padding too",
       .first_wrong = "outputs/aux_loss",
       .property = "masked_contents",
       .run = loss_over_padding},
      {.name = "ties_take_highest_id",
       .bug = "A41",
       .source = "NeMo AutoModel #2116",
       .components = {Component::gate},
       .does = "among equal scores the highest ids are taken",
       .first_wrong = "outputs/indices",
       .property = "lowest_id_ties",
       .run = ties_take_highest_id},
      {.name = "maximum_starts_at_zero",
       .bug = "O5",
       .source = "TransformerEngine #2009, FlashInfer #2822",
       .components = {Component::gate},
       .does = "the search for the largest logit starts at 0: of negative logits the first experts are taken",
       .first_wrong = "outputs/indices",
       .property = "all_negative_logits",
       .run = maximum_starts_at_zero},
      {.name = "selects_by_magnitude",
       .components = {Component::gate},
       .does = "the largest magnitudes are selected",
       .first_wrong = "outputs/indices",
       .property = "temperature monotone_score_map",
       .run = selects_by_magnitude},
      {.name = "group_score_is_maximum",
       .bug = "O2",
       .source = "vLLM #13474",
       .components = {Component::gate},
       .does = "the score of a group is that of its best expert, not of its best two",
       .first_wrong = "outputs/indices",
       .property = "group_selection",
       .run = group_score_is_maximum},
      {.name = "discarded_groups_excluded",
       .bug = "O2",
       .source = "vLLM #13474",
       .components = {Component::gate},
       .does = "discarded groups score minus infinity where the documented system has 0",
       .first_wrong = "outputs/indices",
       .property = "zero_beats_negative",
       .run = discarded_groups_excluded},
      {.name = "two_tokens_swapped",
       .components = {Component::gate},
       .does = "the first two tokens get the routing of each other",
       .first_wrong = "outputs/indices outputs/weights",
       .property = "token_permutation lone_tokens routing_verdict biased_weights independent_of_cotangent",
       .run = two_tokens_swapped},
      {.name = "loss_of_unnormalised_scores",
       .components = {Component::gate},
       .does = "the auxiliary loss averages scores that are not normalised",
       .first_wrong = "outputs/aux_loss",
       .property = "gate_loss",
       .run = loss_of_unnormalised_scores},
      {.name = "scaled_twice",
       .bug = "O7",
       .source = "vLLM #24119",
       .components = {Component::gate},
       .does = "route_scale is applied twice",
       .first_wrong = "outputs/weights",
       .property = "weight_sums",
       .run = scaled_twice},
      {.name = "softmax_order_mixed_up",
       .bug = "A38",
       .source = "NeMo AutoModel f312be013",
       .components = {Component::gate},
       .does = "softmax over the selected logits in place of all, and the other way round",
       .first_wrong = "outputs/weights outputs/indices",
       .property = "weight_sums",
       .run = softmax_order_mixed_up},
      {.name = "softmax_overflows",
       .source = "tt-metal #46633",
       .components = {Component::gate},
       .does = "softmax does not take the largest logit off: logits above 88 overflow",
       .first_wrong = "outputs/weights",
       .property = "large_logit_shift",
       .run = softmax_overflows},
      {.name = "loss_of_first_rank",
       .bug = "A8",
       .source = "NeMo AutoModel #1412",
       .components = {Component::gate},
       .does = "the auxiliary loss is that of the first context-parallel rank",
       .shows = "R",
       .first_wrong = "outputs/aux_loss",
       .property = "context_parallel_loss",
       .run = loss_of_first_rank},
      {.name = "not_a_number_spreads",
       .bug = "A23",
       .source = "NeMo AutoModel e42584e30",
       .components = {Component::gate},
       .does = "one value that is not finite makes every weight NaN",
       .first_wrong = "outputs/weights",
       .property = "poisoned_token",
       .run = not_a_number_spreads},
  };
  return kRows;
}

}  // namespace moeref
