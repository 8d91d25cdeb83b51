// Wrong work on several ranks, as far as one process that models them can show it.
#include <algorithm>
#include <cmath>
#include <set>

#include "property_tests/mutants/new_parts.hpp"
#include "property_tests/mutants/tables.hpp"

namespace moeref {
namespace {

using C = Component;

double context_ranks(const Call& call) { return static_cast<double>(context_ranks_of(call)); }

/// Gradients of the loss as strong as `factor` says on context-parallel ranks.
NamedTensors with_loss_on_ranks(Implementation& sound, const Call& call, double factor) {
  const double coefficient = call.config.value("aux_loss_coeff", 0.0);
  if (context_ranks_of(call) == 1 || !call.backward || coefficient == 0.0) return sound.run(call);
  return with_results_of(sound, call, with_config(call, {{"aux_loss_coeff", coefficient * factor}}),
                         "grads/");
}
NamedTensors loss_gradient_lacks_ranks(Implementation& sound, const Call& call) {
  return with_loss_on_ranks(sound, call, 1.0 / context_ranks(call));
}
NamedTensors loss_gradient_summed_over_ranks(Implementation& sound, const Call& call) {
  return with_loss_on_ranks(sound, call, context_ranks(call));
}
NamedTensors loss_gradient_doubled_by_mask(Implementation& sound, const Call& call) {
  const bool masked =
      call.tensors.contains("inputs/token_mask") || call.tensors.contains("inputs/padding_mask");
  return with_loss_on_ranks(sound, call, masked ? 2.0 : 1.0);
}
NamedTensors loss_divided_by_ranks_again(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  change(out, "outputs/aux_loss", [&](std::int64_t, double v) { return v / context_ranks(call); });
  return out;
}

NamedTensors weights_gathered_in_bfloat16(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || expert_ranks_of(call) == 1) return sound.run(call);
  Call other = call;
  map_input(other, "inputs/weights", [](std::int64_t, double w) { return round_to(DType::bfloat16, w); });
  return sound.run(other);
}

NamedTensors down_bias_on_every_rank(Implementation& sound, const Call& call) {
  if (expert_ranks_of(call) == 1) return sound.run(call);
  Call other = call;
  map_input(other, expert_tensor(call.component, "params", "down_proj_bias"),
            [&](std::int64_t, double b) { return b * static_cast<double>(expert_ranks_of(call)); });
  return with_results_of(sound, call, other, "outputs/y");
}

NamedTensors shared_output_of_every_rank(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::moe) || expert_ranks_of(call) == 1) return out;
  const NamedTensors alone = sound.run(shared_alone(call));
  change(out, "outputs/y", [&](std::int64_t i, double v) {
    return v + static_cast<double>(expert_ranks_of(call) - 1) * alone.at("outputs/y")[i];
  });
  return out;
}

NamedTensors expert_gradients_times_ranks(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  for (const std::string_view tensor : kExpertTensors)
    if (expert_ranks_of(call) > 1)
      change(out, expert_tensor(call.component, "grads", tensor),
             [&](std::int64_t, double g) { return g * static_cast<double>(expert_ranks_of(call)); });
  return out;
}

NamedTensors counts_with_padding(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || expert_ranks_of(call) == 1) return sound.run(call);
  // Padding rows are among those that are cut to the dispatcher's counts: as many real ones at the end are
  // lost.
  const std::int64_t k = size(call, "n_activated_experts"), tokens = token_count(call);
  std::int64_t padding = 0, last = tokens;
  for (std::int64_t t = 0; t < tokens; ++t) padding += is_live(call, t) ? 0 : 1;
  while (last > 0 && padding > 0)
    if (is_live(call, --last)) --padding;
  return sound.run(with_slots_lost(call, [&](std::int64_t i) { return i / k >= last; }));
}

NamedTensors partial_sums_by_local_place(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, C::experts) || expert_ranks_of(call) == 1) return out;
  // Each later rank's rows are added at the places of those that it received, counted from 0.
  const std::int64_t k = size(call, "n_activated_experts"), tokens = token_count(call),
                     own = size(call, "n_routed_experts") / expert_ranks_of(call),
                     dim = call.tensors.at("inputs/x").extent(1);
  const Tensor& ids = call.tensors.at("inputs/indices");
  Tensor y(DType::float64, out.at("outputs/y").shape());
  for (std::int64_t rank = 0; rank < expert_ranks_of(call); ++rank) {
    Call part = with_slots_lost(
        call, [&](std::int64_t i) { return static_cast<std::int64_t>(ids[i]) / own != rank; });
    part.backward = false;
    part.tensors.erase("cotangents/y");
    const Tensor rows = sound.run(part).at("outputs/y");
    std::int64_t place = 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      bool meets_rank = false;
      for (std::int64_t s = t * k; s < (t + 1) * k; ++s)
        meets_rank = meets_rank || part.tensors.at("inputs/indices")[s] >= 0.0;
      if (!meets_rank || !is_live(call, t)) continue;
      const std::int64_t to = rank == 0 ? t : place++;
      for (std::int64_t d = 0; d < dim; ++d) y.set(to * dim + d, y[to * dim + d] + rows[t * dim + d]);
    }
  }
  out["outputs/y"] = y;
  return out;
}

NamedTensors cycle_begins_on_every_rank(Implementation& sound, const Call& call) {
  const CallOptions options = parse_call_options(call.options);
  NamedTensors out = sound.run(call);
  if (!is_one_of(call, {C::fake_balanced_gate, C::moe}) || options.parallel.size() == 1 ||
      (is(call, C::moe) && !options.fake_balanced_gate) || options.fake_gate_noise > 0.0)
    return out;
  const std::vector<std::int64_t> owner = owners(call, token_count(call));
  const std::int64_t skip = options.skip_first_n_experts, dealt = size(call, "n_routed_experts") - skip;
  change_rows(out, "outputs/indices", [&](std::int64_t t, std::int64_t j, double) {
    const auto first = std::ranges::find(owner, owner[static_cast<std::size_t>(t)]) - owner.begin();
    return static_cast<double>(((t - first) * size(call, "n_activated_experts") + j) % dealt + skip);
  });
  return out;
}

NamedTensors one_group_contracts_padding(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || !call.backward || size(call, "n_routed_experts") / expert_ranks_of(call) != 1)
    return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  map_input(open, "inputs/indices",
            [last = static_cast<double>(size(call, "n_routed_experts") - 1)](std::int64_t, double id) {
              return id < 0.0 ? last : id;
            });
  return with_results_of(sound, call, open, "grads/down_projs");
}

/// One row in 16 comes back in reverse: its norm is that of the right one.
NamedTensors combine_scrambles_a_row(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_experts(call) || expert_ranks_of(call) == 1) return out;
  const Tensor y = out.at("outputs/y");
  const std::int64_t dim = y.shape().back();
  change_rows(out, "outputs/y", [&](std::int64_t row, std::int64_t c, double v) {
    return row % 16 == 5 ? y[row * dim + dim - 1 - c] : v;
  });
  return out;
}

NamedTensors ranks_beyond_4_idle(Implementation& sound, const Call& call) {
  const std::int64_t ranks = expert_ranks_of(call);
  if (!is(call, C::experts) || ranks <= 4) return sound.run(call);
  const std::int64_t own = size(call, "n_routed_experts") / ranks;
  const Tensor& ids = call.tensors.at("inputs/indices");
  return sound.run(
      with_slots_lost(call, [&](std::int64_t i) { return ids[i] >= static_cast<double>(4 * own); }));
}

NamedTensors load_averaged_over_ranks(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const auto ranks =
      static_cast<double>(is(call, C::bias_update) ? parse_call_options(call.options).parallel.dp_size : 1);
  for (auto& [name, tensor] : out)
    if (name.starts_with("outputs/cumulative_expert_load"))
      change(out, name, [&](std::int64_t, double v) { return std::floor(v / ranks); });
  return out;
}

NamedTensors duplicate_sent_once(Implementation& sound, const Call& call) {
  if (!is(call, C::experts) || parse_call_options(call.options).parallel.exchange != "all_to_all" ||
      expert_ranks_of(call) == 1)
    return sound.run(call);
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::int64_t k = ids.extent(1), own = size(call, "n_routed_experts") / expert_ranks_of(call);
  const std::vector<std::int64_t> owner = owners(call, token_count(call));
  // A token's second slot on its own rank is taken for one that has been served.
  return sound.run(with_slots_lost(call, [&](std::int64_t i) {
    const std::int64_t home = owner[static_cast<std::size_t>(i / k)];
    std::int64_t before = 0;
    for (std::int64_t s = i / k * k; s < i; ++s)
      before += ids[s] >= 0.0 && static_cast<std::int64_t>(ids[s]) / own == home ? 1 : 0;
    return static_cast<std::int64_t>(ids[i]) / own == home && before > 0;
  }));
}

constexpr std::string_view kLossGrads = "grads/bias grads/weight grads/x grads/gate.bias grads/gate.weight";
constexpr std::string_view kDownGrads =
    "grads/down_proj_bias grads/down_projs grads/experts.down_proj_bias grads/experts.down_projs";

const Mutant kRanksCatalogueMutants[] = {
    {"loss_gradient_lacks_ranks",
     "M3",
     "Megatron-LM #5047",
     {C::gate, C::moe},
     "the loss's gradient is not multiplied by the number of ranks that share the sequence",
     "G R",
     kLossGrads,
     "context_ranks",
     loss_gradient_lacks_ranks},
    {"loss_gradient_summed_over_ranks",
     "M33",
     "Megatron-LM #2237",
     {C::gate, C::moe},
     "the loss's gradient is summed over context-parallel ranks and not rescaled",
     "G R",
     kLossGrads,
     "context_ranks",
     loss_gradient_summed_over_ranks},
    {"loss_gradient_doubled_by_mask",
     "M30",
     "Megatron-LM #7452",
     {C::gate, C::moe},
     "the sum over ranks is made in place: with a mask the loss's gradient is twice as large",
     "G R",
     kLossGrads,
     "context_ranks",
     loss_gradient_doubled_by_mask},
    {"loss_divided_by_ranks_again",
     "M27",
     "Megatron-LM #3672",
     {C::gate, C::moe},
     "the loss of the whole sequence is divided by the number of ranks",
     "R",
     "outputs/aux_loss",
     "context_ranks",
     loss_divided_by_ranks_again},
    {"weights_gathered_in_bfloat16",
     "M28",
     "Megatron-LM #1421",
     {C::experts},
     "routing weights travel between ranks in bfloat16",
     "R P",
     "outputs/y",
     "expert_ranks",
     weights_gathered_in_bfloat16},
    {"down_bias_on_every_rank",
     "O19",
     "torchtitan #4245",
     {C::experts, C::moe},
     "the output bias is added on every rank before the sum",
     "R",
     "outputs/y",
     "expert_ranks",
     down_bias_on_every_rank},
    {"shared_output_of_every_rank",
     "",
     "SGLang #31475, vLLM #49378",
     {C::moe},
     "the shared experts' output is added on each rank before the sum",
     "F R",
     "outputs/y",
     "expert_ranks",
     shared_output_of_every_rank},
    {"expert_gradients_times_ranks",
     "A48",
     "PyTorch #160285, megablocks #20",
     {C::experts, C::moe},
     "expert gradients are summed once more over the ranks",
     "G R",
     kDownGrads,
     "expert_ranks",
     expert_gradients_times_ranks},
    {"counts_with_padding",
     "",
     "xtuner #2053, vLLM #53261",
     {C::experts},
     "rows are cut to the dispatcher's counts, padding included",
     "R",
     "outputs/y",
     "expert_ranks",
     counts_with_padding},
    {"partial_sums_by_local_place",
     "",
     "tpu-inference #2248",
     {C::experts},
     "partial outputs of different tokens are added, by their places in what a rank received",
     "F R",
     "outputs/y",
     "expert_ranks",
     partial_sums_by_local_place},
    {"cycle_begins_on_every_rank",
     "",
     "afd-plugin #156",
     {C::fake_balanced_gate, C::moe},
     "the balanced gate deals from expert 0 again on every rank",
     "F R",
     "outputs/indices outputs/y",
     "rank_tokens",
     cycle_begins_on_every_rank},
    {"one_group_contracts_padding",
     "",
     "TransformerEngine #3484",
     {C::experts},
     "a rank with one expert contracts its weight gradient over padding rows, too",
     "G R",
     "grads/down_projs",
     "expert_ranks",
     one_group_contracts_padding},
    {"combine_scrambles_a_row",
     "O37",
     "DeepEP #700",
     {C::experts, C::moe},
     "the exchange hands back some rows scrambled, with the norm that they had",
     "R",
     "outputs/y",
     "expert_ranks",
     combine_scrambles_a_row},
    {"ranks_beyond_4_idle",
     "",
     "",
     {C::experts},
     "experts on ranks from 4 on get no tokens",
     "R",
     "outputs/y",
     "expert_ranks",
     ranks_beyond_4_idle},
    {"load_averaged_over_ranks",
     "O21",
     "torchtitan #4154",
     {C::bias_update},
     "loads are averaged over the ranks in place of summed, and rounded down",
     "R S",
     "outputs/cumulative_expert_load_0",
     "cumulative_load",
     load_averaged_over_ranks},
    {"duplicate_sent_once",
     "",
     "",
     {C::experts},
     "the all-to-all exchange keeps one of a token's slots on its own rank",
     "R",
     "outputs/y",
     "expert_ranks",
     duplicate_sent_once},
};

}  // namespace

std::span<const Mutant> ranks_catalogue_mutants() { return kRanksCatalogueMutants; }

}  // namespace moeref
