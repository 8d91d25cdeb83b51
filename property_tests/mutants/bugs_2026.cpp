// Bugs that were public in 2025 and 2026, forward, backward and in what stays from call to call.
#include <algorithm>
#include <cmath>
#include <map>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/plain_experts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

NamedTensors top1_with_scale_reads_unwritten(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::gate, C::moe}) || size(call, "n_activated_experts") != 1 ||
      call.config.value("route_scale", 1.0) == 1.0)
    return out;
  change(out, is(call, C::moe) ? "outputs/y" : "outputs/weights", [](std::int64_t, double) { return 0.0; });
  return out;
}

NamedTensors correction_not_copied(Implementation& sound, const Call& call) {
  if (!is_one_of(call, {C::gate, C::moe}) || call.config.value("gate_bias_update_factor", 0.0) > 0.0)
    return sound.run(call);
  Call other = call;
  for (const char* name : {"params/e_score_correction_bias", "params/gate.e_score_correction_bias"})
    fill(other, name, 0.0);
  return sound.run(other);
}

NamedTensors replay_gathers_masked(Implementation& sound, const Call& call) {
  const Tensor* ids = find(call.tensors, "inputs/replay_indices");
  if (!is(call, C::gate) || !ids ||
      (facts(score_of(call)).selects_by_logits && !call.config.value("softmax_before_topk", false)))
    return sound.run(call);
  Call own = call;
  own.tensors.erase("inputs/replay_indices");
  const Tensor chosen = sound.run(own).at("outputs/indices");
  const std::int64_t k = ids->extent(1);
  const Matrix s = weighed_scores_of(call);
  Matrix masked{s.rows, s.cols, std::vector<double>(s.values.size())};
  for (std::int64_t i = 0; i < chosen.size(); ++i) {
    const auto e = static_cast<std::int64_t>(chosen[i]);
    masked.at(i / k, e) = s.at(i / k, e);
  }
  return with_weights_of(sound, call, masked);
}

NamedTensors load_of_first_slot(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids) ids = find(out, "outputs/indices");
  if (!is_one_of(call, {C::gate, C::aux_loss, C::moe}) || !ids || !out.contains("outputs/expert_load"))
    return out;
  Tensor& load = out.at("outputs/expert_load");
  load = Tensor(load.dtype(), load.shape());
  for (std::int64_t t = 0; t < ids->extent(0); ++t) {
    const auto e = static_cast<std::int64_t>((*ids)[t * ids->extent(1)]);
    if (e >= 0 && is_live(call, t)) load.set(e, load[e] + 1.0);
  }
  return out;
}

NamedTensors aux_broadcast_constant(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::aux_loss)) return out;
  const Matrix s = matrix_of(call.tensors.at("inputs/original_scores"));
  const Tensor& load = out.at("outputs/expert_load");
  const auto k = static_cast<double>(size(call, "n_activated_experts"));
  double live = 0.0, f = 0.0, p = 0.0;
  for (std::int64_t t = 0; t < s.rows; ++t) live += is_live(call, t) ? 1.0 : 0.0;
  const double n = std::max(live, 1.0);
  for (std::int64_t e = 0; e < s.cols; ++e) {
    f += load[e] * static_cast<double>(s.cols) / (k * n);
    for (std::int64_t t = 0; t < s.rows; ++t) p += is_live(call, t) ? s.at(t, e) / n : 0.0;
  }
  out.at("outputs/aux_loss").set(0, f * p / static_cast<double>(s.cols));
  return out;
}

NamedTensors softmax_without_largest(Implementation& sound, const Call& call) {
  if (!is(call, C::gate) || !facts(score_of(call)).selects_by_logits) return sound.run(call);
  NamedTensors out = sound.run(call);
  const Matrix z = logits_of(call);
  const Tensor& ids = out.at("outputs/indices");
  const bool all = call.config.value("softmax_before_topk", false);
  change_rows(out, "outputs/weights", [&](std::int64_t t, std::int64_t, double w) {
    float sum = 0.0F;
    const std::int64_t k = ids.extent(1);
    for (std::int64_t i = 0; i < (all ? z.cols : k); ++i)
      sum += std::exp(static_cast<float>(z.at(t, all ? i : static_cast<std::int64_t>(ids[t * k + i]))));
    return sum > 0.0F && std::isfinite(sum) ? w : kNotANumber;
  });
  return out;
}

NamedTensors nan_picks_expert_0(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::gate, C::moe}) || !out.contains("outputs/indices")) return out;
  const Tensor& x = call.tensors.at("inputs/x");
  const std::int64_t dim = x.shape().back();
  change_rows(out, "outputs/indices", [&](std::int64_t t, std::int64_t, double id) {
    for (std::int64_t d = 0; d < dim; ++d)
      if (std::isnan(x[t * dim + d])) return 0.0;
    return id;
  });
  return out;
}

NamedTensors last_micro_batch_alone(Implementation& sound, const Call& call) {
  if (!is(call, C::bias_update)) return sound.run(call);
  const std::int64_t micro = parse_call_options(call.options).micro_batches;
  Call last = call;
  for (const auto& [name, x] : call.tensors)
    if (name.starts_with("inputs/x_") && !name.ends_with("_" + std::to_string(micro - 1)))
      last.tensors["inputs/token_mask" + name.substr(8)] = filled(DType::boolean, {x.extent(0)}, 0.0);
  return sound.run(last);
}

/// Square matrices of a layer, an experts or an MLP call transposed.
NamedTensors square_weights_transposed(Implementation& sound, const Call& call) {
  if (!gives_y(call)) return sound.run(call);
  const auto turned = [](const Tensor& from) {
    Tensor to = from;
    const std::int64_t n = from.shape().back();
    for (std::int64_t i = 0; i < from.size(); ++i)
      to.set(i, from[i / (n * n) * n * n + i % n * n + i / n % n]);
    return to;
  };
  const auto is_square = [](const Tensor& t) {
    return t.shape().size() > 1 && t.size() > 0 && t.shape().back() == t.shape()[t.shape().size() - 2];
  };
  Call other = call;
  for (auto& [name, tensor] : other.tensors)
    if (name.find("proj") != std::string::npos && name.starts_with("params/") && is_square(tensor))
      tensor = turned(tensor);
  return with_results_of(sound, call, other, "outputs/y");
}

NamedTensors up_bias_ignored(Implementation& sound, const Call& call) {
  if (!has_experts(call)) return sound.run(call);
  Call other = call;
  fill(other, expert_tensor(call.component, "params", "gate_up_proj_bias"), 0.0);
  return sound.run(other);
}

NamedTensors rows_stored_to_row_0(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::experts, C::mlp}) || !call.backward) return out;
  change_rows(out, "grads/x", [](std::int64_t row, std::int64_t, double g) { return row == 0 ? g : 0.0; });
  return out;
}

NamedTensors dx_without_up(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.slope = [](const MoEConfig& c, double g, double u) {
    const auto [by_gate, by_up] = activation_slope(c, g, u);
    return std::pair{by_gate, c.gated_experts() ? 0.0 : by_up};
  };
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::experts, C::mlp}) || !call.backward) return out;
  add_difference(out, plain_experts(call, parts), plain_experts(call, {}), {"grads/x"});
  return out;
}

/// Rows sorted by expert and cut into tiles of 16; a tile has the weights of its first row's expert.
NamedTensors tile_of_first_rows_expert(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  IdList rows;
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && is_live(call, i / ids.extent(1))) rows.push_back(i);
  std::ranges::stable_sort(rows, {}, [&](std::int64_t i) { return ids[i]; });
  Call other = call;
  for (std::size_t r = 0; r < rows.size(); ++r)
    other.tensors.at("inputs/indices").set(rows[r], ids[rows[r / 16 * 16]]);
  return with_results_of(sound, call, other, "outputs/y");
}

NamedTensors empty_group_keeps_accumulator(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_weights(call) || !call.backward) return out;
  const Tensor& ids = call.tensors.at("inputs/indices");
  std::vector<bool> has_rows(static_cast<std::size_t>(size(call, "n_routed_experts")));
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && is_live(call, i / ids.extent(1))) has_rows[static_cast<std::size_t>(ids[i])] = true;
  for (const char* name : {"grads/gate_and_up_projs", "grads/down_projs"}) {
    IdList from;
    for (std::size_t e = 0; e < has_rows.size(); ++e)
      from.push_back(has_rows[e] || e == 0 ? static_cast<std::int64_t>(e) : from.back());
    out[name] = take(out.at(name), 0, from);
  }
  return out;
}

NamedTensors weight_by_token(Implementation& sound, const Call& call) {
  if (!is(call, C::experts)) return sound.run(call);
  Call other = call;
  const Tensor& w = call.tensors.at("inputs/weights");
  const std::int64_t k = w.extent(1);
  map_input(other, "inputs/weights", [&](std::int64_t i, double) { return w[i / k * k]; });
  return sound.run(other);
}

NamedTensors fc2_bias_dropped(Implementation& sound, const Call& call) {
  if (!is(call, C::mlp) && !(is(call, C::moe) && size(call, "n_shared_experts") > 0)) return sound.run(call);
  Call other = call;
  for (const char* name : {"params/down_proj.bias", "params/shared_experts.down_proj.bias"})
    fill(other, name, 0.0);
  return sound.run(other);
}

NamedTensors padding_is_dispatched(Implementation& sound, const Call& call) {
  if (!is(call, C::moe)) return sound.run(call);
  NamedTensors out = sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/padding_mask");
  out["outputs/y"] = sound.run(open).at("outputs/y");
  return out;
}

/// Gate and up exact: 0.5 g (1 + erf(g / sqrt 2)).
NamedTensors geglu_erf(Implementation& sound, const Call& call) {
  ExpertsParts parts;
  parts.value = [](const MoEConfig& c, double g, double u) {
    return c.expert_activation == ActivationKind::geglu ? 0.5 * g * (1.0 + std::erf(g / std::sqrt(2.0))) * u
                                                        : activation_value(c, g, u);
  };
  return with_parts(sound, call, parts);
}

/// Parameters are taken from the first call whose tensors lay at the same addresses and had the same shapes.
class WeightsKeptByAddress final : public Stateful {
 public:
  using Stateful::Stateful;
  NamedTensors run(const Call& call) override {
    if (!gives_y(call)) return sound_.run(call);
    Call other = call;
    for (auto& [name, tensor] : other.tensors)
      if (name.starts_with("params/"))
        tensor =
            kept_.try_emplace({call.tensors.at(name).bytes().data(), tensor.shape(), tensor.dtype()}, tensor)
                .first->second;
    return sound_.run(other);
  }

 private:
  std::map<std::tuple<const std::byte*, Shape, DType>, Tensor> kept_;
};

const Mutant kBugs2026Mutants[] = {
    {"top1_with_scale_reads_unwritten",
     "",
     "SGLang #40187",
     {C::gate, C::moe},
     "with one slot and a scale the sum over slots reads a buffer that was never written",
     "F",
     "outputs/weights outputs/y",
     "weight_sums",
     top1_with_scale_reads_unwritten},
    {"correction_not_copied",
     "",
     "DeepSpeed #8358",
     {C::gate, C::moe},
     "the correction bias is not copied unless it is updated",
     "F",
     "outputs/indices outputs/weights",
     "forced_expert",
     correction_not_copied},
    {"replay_gathers_masked",
     "",
     "ISEEKYAN Megatron-LM #49",
     {C::gate},
     "replayed experts are weighed by scores that are zero outside the token's own top k",
     "F G",
     "outputs/weights",
     "replay_other_experts",
     replay_gathers_masked},
    {"load_of_first_slot",
     "",
     "DeepSpeed #2551",
     {C::gate, C::aux_loss, C::moe},
     "the load counts first choices alone",
     "F",
     "outputs/expert_load",
     "load_counts",
     load_of_first_slot},
    {"aux_broadcast_constant",
     "",
     "hyper-parallel #752",
     {C::aux_loss},
     "the loss is the sum of shares times the sum of means: a constant",
     "F",
     "outputs/aux_loss",
     "loss_of_given_scores",
     aux_broadcast_constant},
    {"softmax_without_largest",
     "",
     "tt-metal #46633",
     {C::gate},
     "the softmax does not take the largest logit off",
     "F",
     "outputs/weights",
     "large_logit_shift",
     softmax_without_largest},
    {"nan_picks_expert_0",
     "",
     "vLLM #39244",
     {C::gate, C::moe},
     "a token with NaN gets expert 0 in every slot",
     "F",
     "outputs/indices outputs/weights",
     "",
     nan_picks_expert_0},
    {"last_micro_batch_alone",
     "",
     "prime-rl #2267",
     {C::bias_update},
     "counts begin again with each micro-batch",
     "S",
     "outputs/cumulative_expert_load_0 outputs/indices_1_0 outputs/indices_1_1 outputs/indices_2_0 "
     "outputs/indices_2_1",
     "cumulative_load",
     last_micro_batch_alone},
    {"square_weights_transposed",
     "",
     "unsloth-zoo #849",
     {C::experts, C::mlp, C::moe},
     "the layout of weights is guessed from their shape: square ones are read transposed",
     "F",
     "outputs/y",
     "activation_values",
     square_weights_transposed},
    {"weights_kept_by_address",
     "",
     "NeMo AutoModel #3606, SGLang #30247",
     {C::experts, C::mlp, C::moe},
     "prepared weights are kept under their address and shape",
     "S",
     "outputs/y outputs/indices grads/weights",
     "linear_down",
     nullptr,
     make_stateful<WeightsKeptByAddress>},
    {"up_bias_ignored",
     "",
     "FlashInfer #3423",
     {C::experts, C::moe},
     "the first bias never reaches the kernel",
     "F",
     "outputs/y grads/weights",
     "within_bounds",
     up_bias_ignored},
    {"rows_stored_to_row_0",
     "",
     "Triton-distributed #180",
     {C::experts, C::mlp},
     "the backward pass stores the gradients of all rows to row 0",
     "G",
     "grads/x",
     "split_rows",
     rows_stored_to_row_0},
    {"dx_without_up",
     "",
     "Liger #1413",
     {C::experts, C::mlp},
     "of gate and up the gate alone reaches the gradient of x",
     "G",
     "grads/x",
     "central_differences",
     dx_without_up},
    {"tile_of_first_rows_expert",
     "",
     "DeepGEMM #450, FBGEMM #3949",
     {C::experts},
     "a tile of rows has the weights of its first row's expert",
     "F",
     "outputs/y",
     "loop_over_experts",
     tile_of_first_rows_expert},
    {"empty_group_keeps_accumulator",
     "",
     "CUTLASS #2674, tokamax #887",
     {C::experts},
     "an expert without tokens has the weight gradient of the one before",
     "G",
     "grads/down_projs",
     "zero_token_expert",
     empty_group_keeps_accumulator},
    {"weight_by_token",
     "",
     "vllm-xpu-kernels #66",
     {C::experts},
     "the routing weight is looked up by token in place of slot",
     "F",
     "outputs/y",
     "within_bounds",
     weight_by_token},
    {"fc2_bias_dropped",
     "",
     "Megatron-LM #2296",
     {C::mlp, C::moe},
     "a bias that the projection hands back is not added",
     "F",
     "outputs/y",
     "within_bounds",
     fc2_bias_dropped},
    {"padding_is_dispatched",
     "",
     "Megatron-LM #5542",
     {C::moe},
     "padding is left out of the loss alone, and experts see it",
     "F",
     "outputs/y",
     "masked_rows",
     padding_is_dispatched},
    {"geglu_erf",
     "",
     "vLLM #41574, Megatron-Bridge #4661",
     {C::experts},
     "the exact GELU in place of its tanh form",
     "F P",
     "outputs/y",
     "activation_values",
     geglu_erf},
};

}  // namespace

std::span<const Mutant> bugs_2026_mutants() { return kBugs2026Mutants; }

}  // namespace moeref
