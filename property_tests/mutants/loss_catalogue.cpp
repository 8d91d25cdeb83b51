// Auxiliary losses that were wrong in public: the loss, its load, and the gradient that it adds.
#include <algorithm>
#include <cmath>
#include <string>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

bool has_loss(const Call& call) {
  return is_one_of(call, {C::gate, C::moe}) && call.config.value("aux_loss_coeff", 0.0) > 0.0;
}

/// The sound results with the loss's share of the gradients `factor` times as strong.
NamedTensors with_loss_gradient(Implementation& sound, const Call& call, double factor) {
  if (!has_loss(call) || !call.backward || factor == 1.0) return sound.run(call);
  NamedTensors out = sound.run(call);
  const NamedTensors none = sound.run(with_config(call, {{"aux_loss_coeff", 0.0}})), own = out;
  for (auto& [name, tensor] : out)
    if (name.starts_with("grads/"))
      for (std::int64_t i = 0; i < tensor.size(); ++i)
        tensor.set(i, own.at(name)[i] + (factor - 1.0) * (own.at(name)[i] - none.at(name)[i]));
  return out;
}

double scale_of(const Call& call) { return parse_call_options(call.options).aux_loss_backward_scale; }

NamedTensors backward_scale_never_set(Implementation& sound, const Call& call) {
  return with_loss_gradient(sound, call, is(call, C::gate) ? 1.0 / scale_of(call) : 1.0);
}
NamedTensors backward_scale_missing_in_layer(Implementation& sound, const Call& call) {
  return with_loss_gradient(sound, call, is(call, C::moe) ? 1.0 / scale_of(call) : 1.0);
}
NamedTensors coefficient_left_out(Implementation& sound, const Call& call) {
  return has_loss(call)
             ? with_loss_gradient(sound, call, 1.0 / call.config.at("aux_loss_coeff").get<double>())
             : sound.run(call);
}
NamedTensors loss_gradient_lacks_batch(Implementation& sound, const Call& call) {
  if (!is(call, C::moe) || call.tensors.at("inputs/x").shape().size() < 3) return sound.run(call);
  return with_loss_gradient(
      sound, call,
      1.0 / static_cast<double>(std::max<std::int64_t>(call.tensors.at("inputs/x").extent(0), 1)));
}
NamedTensors loss_gradient_negative(Implementation& sound, const Call& call) {
  return with_loss_gradient(sound, call, -1.0);
}

/// The loss of every result of the call, changed.
template <typename F>
NamedTensors with_loss(Implementation& sound, const Call& call, F&& f) {
  NamedTensors out = sound.run(call);
  change(out, "outputs/aux_loss", [&](std::int64_t, double v) { return f(v); });
  return out;
}

NamedTensors no_floor_of_one_token(Implementation& sound, const Call& call) {
  std::int64_t live = 0;
  if (is_one_of(call, {C::gate, C::moe, C::aux_loss}))
    for (std::int64_t t = 0; t < token_count(call); ++t) live += is_live(call, t) ? 1 : 0;
  return with_loss(sound, call, [&](double v) { return live == 0 ? kNotANumber : v; });
}

NamedTensors loss_in_type_of_x(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe, C::aux_loss})) return sound.run(call);
  return with_loss(sound, call, [&](double v) { return round_to(dtype_of(call), v); });
}

NamedTensors loss_divided_by_slots_again(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe, C::aux_loss})) return sound.run(call);
  const auto k = static_cast<double>(size(call, "n_activated_experts"));
  return with_loss(sound, call, [&](double v) { return v / k; });
}

NamedTensors loss_given_out_with_coefficient(Implementation& sound, const Call& call) {
  if (!has_loss(call)) return sound.run(call);
  const double coefficient = call.config.at("aux_loss_coeff");
  return with_loss(sound, call, [&](double v) { return v * coefficient; });
}

NamedTensors loss_of_bfloat16_scores(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !has_loss(call) || score_of(call) != ScoreFunc::sigmoid) return sound.run(call);
  const Matrix s = mapped(weighed_scores_of(call), [](double v) { return round_to(DType::bfloat16, v); });
  return with_loss_of(sound, call, normalised_scores(call, s));
}

NamedTensors loss_of_softmax(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !has_loss(call) || facts(score_of(call)).selects_by_logits)
    return sound.run(call);
  return with_loss_of(
      sound, call, scores_of(with_config(call, {{"score_func", "softmax"}, {"softmax_before_topk", true}})));
}

NamedTensors loss_of_raw_logits(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !has_loss(call) || score_of(call) != ScoreFunc::softmax ||
      call.config.value("softmax_before_topk", false))
    return sound.run(call);
  return with_loss_of(sound, call, logits_of(call));
}

NamedTensors loss_of_selected_scores(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::gate) || !has_loss(call) || !out.contains("outputs/aux_loss")) return out;
  const Tensor &ids = out.at("outputs/indices"), &w = out.at("outputs/weights");
  const std::int64_t experts = size(call, "n_routed_experts"), k = ids.extent(1);
  Matrix s{ids.extent(0), experts, std::vector<double>(static_cast<std::size_t>(ids.extent(0) * experts))};
  for (std::int64_t i = 0; i < ids.size(); ++i)
    s.at(i / k, static_cast<std::int64_t>(ids[i])) = w[i] / call.config.value("route_scale", 1.0);
  return with_loss_of(sound, call, s);
}

template <ScoreFunc F>
NamedTensors top1_loss_of_normalised_scores(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !has_loss(call) || score_of(call) != F ||
      size(call, "n_activated_experts") != 1 || !call.config.value("norm_topk_prob", false))
    return sound.run(call);
  Matrix s = weighed_scores_of(call);
  for (std::int64_t t = 0; t < s.rows; ++t) {
    double sum = 1e-20;
    for (std::int64_t e = 0; e < s.cols; ++e) sum += s.at(t, e);
    for (std::int64_t e = 0; e < s.cols; ++e) s.at(t, e) /= sum;
  }
  return with_loss_of(sound, call, s);
}

NamedTensors load_counted_again_in_backward(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (call.backward) change(out, "outputs/expert_load", [](std::int64_t, double v) { return 2.0 * v; });
  return out;
}

NamedTensors loss_per_sequence(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::moe) || !out.contains("outputs/aux_loss") ||
      call.tensors.at("inputs/x").shape().size() < 3)
    return out;
  const std::int64_t batch = call.tensors.at("inputs/x").extent(0);
  double sum = 0.0;
  for (std::int64_t b = 0; b < batch; ++b) {
    Call own = call;
    own.backward = false;
    std::erase_if(own.tensors, [](const auto& entry) { return entry.first.starts_with("cotangents/"); });
    for (const char* option : {"ep_size", "cp_size", "tokens_per_rank", "exchange"})
      own.options.erase(option);
    const std::vector<std::int64_t> alone{b};
    for (const char* name : {"inputs/x", "inputs/padding_mask"}) take_in(own, name, 0, alone);
    if (const Tensor* ids = find(call.tensors, "inputs/replay_indices")) {
      const std::int64_t length = ids->extent(0) / batch;
      std::vector<std::int64_t> rows;
      for (std::int64_t t = b * length; t < (b + 1) * length; ++t) rows.push_back(t);
      own.tensors["inputs/replay_indices"] = take(*ids, 0, rows);
    }
    sum += sound.run(own).at("outputs/aux_loss")[0];
  }
  out.at("outputs/aux_loss").set(0, batch > 0 ? sum / static_cast<double>(batch) : 0.0);
  return out;
}

NamedTensors loss_outside_training(Implementation& sound, const Call& call) {
  if (!has_loss(call) || parse_call_options(call.options).training) return sound.run(call);
  Call training = call;
  training.options["training"] = true;
  return sound.run(training);
}

NamedTensors loss_without_being_asked(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe}) || !call.backward || has_loss(call) ||
      call.config.value("gate_bias_update_factor", 0.0) == 0.0)
    return sound.run(call);
  return with_results_of(sound, call, with_config(call, {{"aux_loss_coeff", 0.001}}), "grads/");
}

/// The first padding token counts where its experts were replayed.
NamedTensors replayed_padding_counts_once(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* ids = find(call.tensors, "inputs/replay_indices");
  if (!is_one_of(call, {C::gate, C::moe}) || !ids || !out.contains("outputs/expert_load")) return out;
  Tensor& load = out.at("outputs/expert_load");
  for (std::int64_t t = 0; t < ids->extent(0); ++t) {
    if (is_live(call, t)) continue;
    for (std::int64_t j = 0; j < ids->extent(1); ++j) {
      const auto e = static_cast<std::int64_t>((*ids)[t * ids->extent(1) + j]);
      load.set(e, load[e] + 1.0);
    }
    break;
  }
  return out;
}

NamedTensors padding_dilutes_loss(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe, C::aux_loss})) return sound.run(call);
  double live = 0.0;
  const std::int64_t tokens = token_count(call);
  for (std::int64_t t = 0; t < tokens; ++t) live += is_live(call, t) ? 1.0 : 0.0;
  const double share = tokens > 0 ? live / static_cast<double>(tokens) : 1.0;
  return with_loss(sound, call, [&](double v) { return v * share * share; });
}

NamedTensors first_token_behind_padding_lost(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::aux_loss, C::experts, C::moe})) return sound.run(call);
  return sound.run(
      with_live(call, [&](std::int64_t t) { return is_live(call, t) && (t == 0 || is_live(call, t - 1)); }));
}

constexpr std::string_view kGateLossGrads =
    "grads/bias grads/weight grads/x grads/gate.bias grads/gate.weight";

const Mutant kLossCatalogueMutants[] = {
    {"backward_scale_never_set",
     "A3",
     "NeMo AutoModel #1412",
     {C::gate},
     "the main-loss backward scale never reaches the loss's gradient",
     "G",
     kGateLossGrads,
     "linear_coefficient",
     backward_scale_never_set},
    {"backward_scale_missing_in_layer",
     "M10",
     "Megatron-LM !2851",
     {C::moe},
     "inside the layer the loss's gradient is not scaled",
     "G",
     kGateLossGrads,
     "layer_loss_scale",
     backward_scale_missing_in_layer},
    {"coefficient_left_out",
     "",
     "",
     {C::gate, C::moe},
     "the loss's gradient comes without its coefficient",
     "G",
     kGateLossGrads,
     "linear_coefficient",
     coefficient_left_out},
    {"loss_gradient_lacks_batch",
     "M2",
     "Megatron-LM #5798",
     {C::moe},
     "the loss's gradient is divided by the number of sequences",
     "G",
     kGateLossGrads,
     "batch_shape",
     loss_gradient_lacks_batch},
    {"loss_gradient_negative",
     "",
     "",
     {C::gate, C::moe},
     "the loss's gradient has the wrong sign",
     "G",
     kGateLossGrads,
     "loss_gradient",
     loss_gradient_negative},
    {"no_floor_of_one_token",
     "A7",
     "NeMo AutoModel #1412",
     {C::gate, C::aux_loss, C::moe},
     "the loss divides by the number of real tokens without a floor of 1",
     "F",
     "outputs/aux_loss",
     "loss_of_given_scores",
     no_floor_of_one_token},
    {"loss_in_type_of_x",
     "A9",
     "NeMo AutoModel #2083",
     {C::gate, C::aux_loss, C::moe},
     "the loss is rounded to the type of x",
     "P",
     "outputs/aux_loss",
     "within_bounds",
     loss_in_type_of_x},
    {"loss_divided_by_slots_again",
     "M13",
     "Megatron-LM 5c8eb08f66",
     {C::gate, C::aux_loss, C::moe},
     "the loss is divided by k twice",
     "F",
     "outputs/aux_loss",
     "uniform_loss",
     loss_divided_by_slots_again},
    {"loss_given_out_with_coefficient",
     "",
     "",
     {C::gate, C::moe},
     "the loss that is returned is multiplied by its coefficient",
     "F",
     "outputs/aux_loss",
     "linear_coefficient",
     loss_given_out_with_coefficient},
    {"loss_of_bfloat16_scores",
     "M4",
     "Megatron-LM #2765",
     {C::gate},
     "the sigmoid that the loss sees is rounded to bfloat16",
     "P",
     "outputs/aux_loss",
     "within_bounds",
     loss_of_bfloat16_scores},
    {"loss_of_softmax",
     "M6",
     "Megatron-LM !2801",
     {C::gate},
     "the loss averages softmax scores while the router uses others",
     "F",
     "outputs/aux_loss",
     "gate_loss",
     loss_of_softmax},
    {"loss_of_raw_logits",
     "A6",
     "NeMo AutoModel #1559",
     {C::gate},
     "with softmax after top-k the loss averages logits",
     "F",
     "outputs/aux_loss",
     "gate_loss",
     loss_of_raw_logits},
    {"loss_of_selected_scores",
     "M15",
     "Megatron-LM 8efc8de8d0",
     {C::gate},
     "the loss averages the weights of the selected experts alone",
     "F",
     "outputs/aux_loss",
     "gate_loss",
     loss_of_selected_scores},
    {"top1_loss_of_normalised_scores",
     "M5",
     "Megatron-LM !3279",
     {C::gate},
     "with k = 1 the loss sees normalised sigmoids, which the weights are not",
     "F",
     "outputs/aux_loss",
     "gate_loss",
     top1_loss_of_normalised_scores<ScoreFunc::sigmoid>},
    {"top1_loss_of_normalised_sqrtsoftplus",
     "O28",
     "TransformerEngine #2720",
     {C::gate},
     "with k = 1 the loss sees normalised sqrtsoftplus scores, which the weights are not",
     "F",
     "outputs/aux_loss",
     "gate_loss",
     top1_loss_of_normalised_scores<ScoreFunc::sqrtsoftplus>},
    {"load_counted_again_in_backward",
     "M11",
     "Megatron-LM !2574",
     {C::gate, C::moe},
     "the forward pass that the backward pass repeats counts its load again",
     "F G",
     "outputs/expert_load",
     "routing_verdict",
     load_counted_again_in_backward},
    {"loss_per_sequence",
     "O29",
     "TransformerEngine #1944",
     {C::moe},
     "every sequence of the batch has a loss of its own, and their mean is returned",
     "F",
     "outputs/aux_loss",
     "batch_shape",
     loss_per_sequence},
    {"loss_outside_training",
     "O31",
     "megablocks #69",
     {C::gate, C::moe},
     "the loss is formed in evaluation, too",
     "F G",
     kGateLossGrads,
     "no_loss",
     loss_outside_training},
    {"loss_without_being_asked",
     "A43",
     "NeMo AutoModel #1768",
     {C::gate, C::moe},
     "a router that is balanced by its bias gets the default coefficient of the loss as well",
     "G",
     kGateLossGrads,
     "central_differences",
     loss_without_being_asked},
    {"replayed_padding_counts_once",
     "O35",
     "slime #822",
     {C::gate, C::moe},
     "of padding tokens whose experts are replayed the first one is counted",
     "F",
     "outputs/expert_load",
     "replay_own_experts",
     replayed_padding_counts_once},
    {"padding_dilutes_loss",
     "O33",
     "transformers #28517",
     {C::gate, C::aux_loss, C::moe},
     "shares and means are taken over padding, too",
     "F",
     "outputs/aux_loss",
     "dropped_tokens",
     padding_dilutes_loss},
    {"first_token_behind_padding_lost",
     "A51",
     "NeMo AutoModel 987ba24e1",
     {C::gate, C::aux_loss, C::experts, C::moe},
     "the boundary of a sequence is off by one: its first token is taken for padding",
     "F",
     "outputs/expert_load outputs/y grads/weights",
     "load_counts",
     first_token_behind_padding_lost},
};

}  // namespace

std::span<const Mutant> loss_catalogue_mutants() { return kLossCatalogueMutants; }

}  // namespace moeref
