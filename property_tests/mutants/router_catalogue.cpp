// Routers that were wrong in public: which experts are chosen, and with which weights.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

/// Experts chosen from other scores q, no group discarded.
NamedTensors chosen_by(Implementation& sound, const Call& call, const Matrix& q) {
  const std::int64_t k = size(call, "n_activated_experts");
  return with_choice(sound, call, [&](std::int64_t t, const IdList&) { return largest(q, t, k); });
}

void add_correction_to(const Call& call, Matrix& m) {
  if (const Tensor* c = find(call.tensors, "params/e_score_correction_bias"))
    for (std::int64_t t = 0; t < m.rows; ++t)
      for (std::int64_t e = 0; e < m.cols; ++e) m.at(t, e) += (*c)[e];
}

NamedTensors scores_rounded_before_selection(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || score_of(call) != ScoreFunc::sqrtsoftplus || dtype_of(call) != DType::bfloat16)
    return sound.run(call);
  Matrix q = mapped(scores_of(call), [](double s) { return round_to(DType::bfloat16, s); });
  add_correction_to(call, q);
  return chosen_by(sound, call, q);
}

NamedTensors softmax_in_bfloat16(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !facts(score_of(call)).selects_by_logits || dtype_of(call) != DType::bfloat16)
    return sound.run(call);
  const auto narrow = [](double v) { return round_to(DType::bfloat16, v); };
  Matrix s = logits_of(call);
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double top = -INFINITY, sum = 0.0;
    for (std::int64_t e = 0; e < s.cols; ++e) top = std::max(top, s.at(t, e));
    for (std::int64_t e = 0; e < s.cols; ++e)
      sum = narrow(sum + (s.at(t, e) = narrow(std::exp(narrow(s.at(t, e) - top)))));
    for (std::int64_t e = 0; e < s.cols; ++e) s.at(t, e) = narrow(s.at(t, e) / sum);
  }
  return with_weights_of(sound, call, s);
}

NamedTensors gate_input_normalised_again(Implementation& sound, const Call& call) {
  if (!is(call, C::gate)) return sound.run(call);
  Call twice = call;
  const Matrix x = matrix_of(call.tensors.at("inputs/x"));
  map_input(twice, "inputs/x", [&](std::int64_t i, double v) {
    double squares = 0.0;
    for (std::int64_t c = 0; c < x.cols; ++c) squares += x.at(i / x.cols, c) * x.at(i / x.cols, c);
    return v / std::sqrt(squares / static_cast<double>(x.cols) + 1e-6);
  });
  return sound.run(twice);
}

NamedTensors logits_rescaled(Implementation& sound, const Call& call) {
  if (!is(call, C::gate)) return sound.run(call);
  Call other = call;
  for (const char* name : {"params/weight", "params/bias"})
    map_input(other, name, [](std::int64_t, double v) { return v * 0.018799 / 0.018844; });
  return sound.run(other);
}

NamedTensors correction_joins_logits(Implementation& sound, const Call& call) {
  const Tensor* c = find(call.tensors, "params/e_score_correction_bias");
  if (!is(call, C::gate) || !c) return sound.run(call);
  Call other = with_config(call, {{"router_bias", true}});
  Tensor bias = c->cast(DType::float64);
  if (const Tensor* own = find(call.tensors, "params/bias"))
    for (std::int64_t e = 0; e < bias.size(); ++e) bias.set(e, bias[e] + (*own)[e]);
  other.tensors["params/bias"] = bias;
  fill(other, "params/e_score_correction_bias", 0.0);
  NamedTensors out = sound.run(other);
  if (!call.tensors.contains("params/bias")) out.erase("grads/bias");
  return out;
}

/// Experts chosen in groups that score the sum of their `best` largest, for any number of them.
NamedTensors chosen_in_groups(Implementation& sound, const Call& call, std::int64_t best,
                              const std::function<std::int64_t(std::int64_t)>& group_of) {
  const MoEConfig c = parse_moe_config(call.config);
  Matrix q = scores_of(call);
  add_correction_to(call, q);
  for (std::int64_t t = 0; t < q.rows; ++t) {
    std::vector<std::vector<double>> members(static_cast<std::size_t>(c.n_expert_groups));
    for (std::int64_t e = 0; e < q.cols; ++e)
      members[static_cast<std::size_t>(std::min(group_of(e), c.n_expert_groups - 1))].push_back(q.at(t, e));
    Matrix scores{1, c.n_expert_groups, {}};
    for (auto& group : members) {
      std::ranges::sort(group, std::greater<>());
      double sum = 0.0;
      for (std::size_t i = 0; i < group.size() && static_cast<std::int64_t>(i) < best; ++i) sum += group[i];
      scores.values.push_back(sum);
    }
    const IdList kept = largest(scores, 0, c.n_limited_groups);
    for (std::int64_t e = 0; e < q.cols; ++e)
      if (std::ranges::find(kept, std::min(group_of(e), c.n_expert_groups - 1)) == kept.end())
        q.at(t, e) = c.discards_to_zero() ? 0.0 : -INFINITY;
  }
  return chosen_by(sound, call, q);
}

std::int64_t best_of_groups(const MoEConfig& c) { return c.summed_per_group(); }

NamedTensors group_score_of_other_count(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !parse_moe_config(call.config).grouped()) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  const std::int64_t width = c.n_routed_experts / c.n_expert_groups;
  return chosen_in_groups(sound, call, std::max<std::int64_t>(c.n_expert_groups / c.n_limited_groups, 1),
                          [&](std::int64_t e) { return e / width; });
}

NamedTensors groups_by_stride(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !parse_moe_config(call.config).grouped()) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  return chosen_in_groups(sound, call, best_of_groups(c),
                          [&](std::int64_t e) { return e % c.n_expert_groups; });
}

NamedTensors group_by_shift(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !parse_moe_config(call.config).grouped()) return sound.run(call);
  const MoEConfig c = parse_moe_config(call.config);
  const std::int64_t width = c.n_routed_experts / c.n_expert_groups;
  std::int64_t shift = 0;
  while (width >> (shift + 1) > 0) ++shift;
  return chosen_in_groups(sound, call, best_of_groups(c), [&](std::int64_t e) { return e >> shift; });
}

template <DType T>
NamedTensors correction_rounded(Implementation& sound, const Call& call) {
  if (!is(call, C::gate)) return sound.run(call);
  Call other = call;
  map_input(other, "params/e_score_correction_bias", [](std::int64_t, double c) { return round_to(T, c); });
  return sound.run(other);
}

NamedTensors top1_weighs_one(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || size(call, "n_activated_experts") != 1) return sound.run(call);
  return sound.run(with_config(call, {{"softmax_before_topk", false}}));
}

NamedTensors score_recovered_from_sum(Implementation& sound, const Call& call) {
  const Tensor* c = find(call.tensors, "params/e_score_correction_bias");
  if (!is(call, C::gate) || !c || facts(score_of(call)).selects_by_logits) return sound.run(call);
  Matrix s = weighed_scores_of(call);
  for (std::int64_t t = 0; t < s.rows; ++t)
    for (std::int64_t e = 0; e < s.cols; ++e) {
      const auto bias = static_cast<float>((*c)[e]), sum = static_cast<float>(s.at(t, e)) + bias;
      s.at(t, e) = static_cast<double>(sum - bias);
    }
  return with_weights_of(sound, call, s);
}

NamedTensors nothing_added_to_sum(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::gate) || !normalises(call)) return out;
  const Matrix s = weighed_scores_of(call);
  const Tensor& ids = out.at("outputs/indices");
  change_rows(out, "outputs/weights", [&](std::int64_t t, std::int64_t, double w) {
    float sum = 0.0F;
    for (std::int64_t j = 0; j < ids.extent(1); ++j)
      sum += static_cast<float>(s.at(t, static_cast<std::int64_t>(ids[t * ids.extent(1) + j])));
    return sum == 0.0F ? kNotANumber : w;
  });
  return out;
}

NamedTensors normalisation_never_forwarded(Implementation& sound, const Call& call) {
  return is(call, C::gate) ? sound.run(with_config(call, {{"norm_topk_prob", false}})) : sound.run(call);
}

NamedTensors scale_left_out(Implementation& sound, const Call& call) {
  return is(call, C::gate) ? sound.run(with_config(call, {{"route_scale", 1.0}})) : sound.run(call);
}

NamedTensors router_bias_left_out(Implementation& sound, const Call& call) {
  if (!is(call, C::gate)) return sound.run(call);
  Call other = call;
  fill(other, "params/bias", 0.0);
  return sound.run(other);
}

NamedTensors load_of_unbiased_choice(Implementation& sound, const Call& call) {
  if (!is(call, C::gate)) return sound.run(call);
  Call other = call;
  fill(other, "params/e_score_correction_bias", 0.0);
  return with_results_of(sound, call, other, "outputs/expert_load");
}

NamedTensors correction_subtracted(Implementation& sound, const Call& call) {
  if (!is(call, C::gate)) return sound.run(call);
  Call other = call;
  map_input(other, "params/e_score_correction_bias", [](std::int64_t, double c) { return -c; });
  return sound.run(other);
}

NamedTensors balanced_gate_sees_mask(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::fake_balanced_gate))
    change_rows(out, "outputs/weights",
                [&](std::int64_t t, std::int64_t, double w) { return is_live(call, t) ? w : 0.0; });
  return out;
}

NamedTensors balanced_gate_begins_anew(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::fake_balanced_gate) || call.options.value("noise", 0.0) > 0.0) return out;
  const double skip = call.options.value("skip_first_n_experts", 0.0);
  change_rows(out, "outputs/indices",
              [&](std::int64_t, std::int64_t j, double) { return skip + static_cast<double>(j); });
  return out;
}

NamedTensors balanced_gate_noise_not_shared(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, C::fake_balanced_gate))
    change_rows(out, "outputs/weights", [&](std::int64_t, std::int64_t, double w) {
      return w * (1.0 + call.options.value("noise", 0.0));
    });
  return out;
}

const Mutant kRouterCatalogueMutants[] = {
    {"scores_rounded_before_selection",
     "A10",
     "NeMo AutoModel #2201",
     {C::gate},
     "sqrtsoftplus scores go back to bfloat16 before the selection",
     "P",
     "outputs/indices",
     "",
     scores_rounded_before_selection},
    {"softmax_in_bfloat16",
     "A39",
     "NeMo AutoModel f312be013",
     {C::gate},
     "the softmax runs in the type of the activations",
     "P",
     "outputs/weights",
     "",
     softmax_in_bfloat16},
    {"gate_input_normalised_again",
     "A40",
     "NeMo AutoModel #1895",
     {C::gate},
     "the gate normalises rows that were normalised before",
     "F",
     "outputs/indices outputs/weights outputs/aux_loss grads/x",
     "unbiased_weights",
     gate_input_normalised_again},
    {"logits_rescaled",
     "A42",
     "NeMo AutoModel #3456",
     {C::gate},
     "a constant of the router was rounded to bfloat16: every logit is off by a factor of 0.9976",
     "F",
     "outputs/indices outputs/weights grads/weight",
     "unbiased_weights",
     logits_rescaled},
    {"correction_joins_logits",
     "M7",
     "Megatron-LM !3083",
     {C::gate},
     "the correction bias is added to the logits, and weights are taken from their scores",
     "F",
     "outputs/indices outputs/weights",
     "unbiased_weights",
     correction_joins_logits},
    {"group_score_of_other_count",
     "M8",
     "Megatron-LM !2801",
     {C::gate},
     "a group scores the sum of its n_groups / n_limited largest in place of two",
     "F",
     "outputs/indices",
     "group_selection",
     group_score_of_other_count},
    {"groups_by_stride",
     "",
     "",
     {C::gate},
     "every n-th expert makes a group, in place of neighbours",
     "F",
     "outputs/indices",
     "group_selection",
     groups_by_stride},
    {"group_by_shift",
     "",
     "",
     {C::gate},
     "an expert's group is its id shifted right: wrong where a group's size is no power of two",
     "F L",
     "outputs/indices",
     "group_selection",
     group_by_shift},
    {"correction_in_bfloat16",
     "M9",
     "Megatron-LM !2895",
     {C::gate},
     "the correction bias is cast to bfloat16 together with the module",
     "F P",
     "outputs/indices outputs/weights",
     "",
     correction_rounded<DType::bfloat16>},
    {"correction_in_float16",
     "O34",
     "SGLang #31213",
     {C::gate},
     "the correction bias is held in 16 bits: values at a large offset collapse",
     "F P",
     "outputs/indices outputs/weights",
     "",
     correction_rounded<DType::float16>},
    {"top1_weighs_one",
     "M12",
     "Megatron-LM !1690",
     {C::gate},
     "with one expert per token the softmax runs over that one: its weight is 1 and the router has no "
     "gradient",
     "F G",
     "outputs/weights",
     "routing_verdict",
     top1_weighs_one},
    {"score_recovered_from_sum",
     "O3",
     "FlashInfer #3875",
     {C::gate},
     "the score is recovered as (score + bias) - bias, which cancels to 0",
     "F",
     "outputs/weights",
     "unbiased_weights",
     score_recovered_from_sum},
    {"nothing_added_to_sum",
     "O4",
     "FlashInfer #3803",
     {C::gate},
     "1e-20 is missing in the normalisation: 0 / 0 where all selected scores underflow",
     "F",
     "outputs/weights",
     "",
     nothing_added_to_sum},
    {"normalisation_never_forwarded",
     "O6",
     "FlashInfer #2889",
     {C::gate},
     "norm_topk_prob never reaches the kernel",
     "F",
     "outputs/weights outputs/aux_loss",
     "weight_sums",
     normalisation_never_forwarded},
    {"scale_left_out",
     "O8",
     "SGLang #8511",
     {C::gate},
     "one path leaves out the scale of the weights",
     "F",
     "outputs/weights",
     "weight_sums",
     scale_left_out},
    {"router_bias_left_out",
     "O24",
     "torchtitan #2319",
     {C::gate},
     "the gate's bias is missing",
     "F",
     "outputs/indices outputs/weights outputs/expert_load outputs/aux_loss",
     "routing_verdict",
     router_bias_left_out},
    {"load_of_unbiased_choice",
     "M5",
     "Megatron-LM !3279",
     {C::gate},
     "the load counts what the scores without the bias would choose",
     "F",
     "outputs/expert_load",
     "load_counts",
     load_of_unbiased_choice},
    {"correction_subtracted",
     "",
     "",
     {C::gate},
     "the correction bias is subtracted",
     "F",
     "outputs/indices outputs/weights",
     "forced_expert",
     correction_subtracted},
    {"balanced_gate_sees_mask",
     "",
     "",
     {C::fake_balanced_gate},
     "masked tokens get no weight from the balanced gate",
     "F",
     "outputs/weights",
     "mask_ignored",
     balanced_gate_sees_mask},
    {"balanced_gate_begins_anew",
     "",
     "",
     {C::fake_balanced_gate},
     "the balanced gate deals from the first expert again for every token",
     "F",
     "outputs/indices",
     "experts_in_turn",
     balanced_gate_begins_anew},
    {"balanced_gate_noise_not_shared",
     "",
     "",
     {C::fake_balanced_gate},
     "noise is added to the balanced weights without its share being taken off",
     "F",
     "outputs/weights",
     "balanced_well_formed",
     balanced_gate_noise_not_shared},
};

}  // namespace

std::span<const Mutant> router_catalogue_mutants() { return kRouterCatalogueMutants; }

}  // namespace moeref
