// Wrong experts and MLPs in their forward pass: see mutant.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/mutants/mutant_parts.hpp"

namespace moeref {
namespace {

NamedTensors down_bias_unweighted(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || !call.tensors.contains("params/down_proj_bias"))
    return sound.run(call);
  Call bare = call;
  fill(bare, "params/down_proj_bias", 0.0);
  NamedTensors out = sound.run(call);
  out["outputs/y"] = sound.run(bare).at("outputs/y");
  const Tensor &ids = call.tensors.at("inputs/indices"), &b = call.tensors.at("params/down_proj_bias");
  const std::int64_t k = ids.extent(1), dim = b.extent(1);
  change(out, "outputs/y", [&](std::int64_t i, double y) {
    for (std::int64_t s = i / dim * k; s < (i / dim + 1) * k; ++s)
      if (ids[s] >= 0.0 && is_live(call, i / dim)) y += b[static_cast<std::int64_t>(ids[s]) * dim + i % dim];
    return y;
  });
  return out;
}

/// Columns of gate_and_up_projs and its bias in another order.
template <typename Column>
NamedTensors columns_moved(Implementation& sound, Call call, Column&& column) {
  const std::int64_t columns = 2 * size(call, "moe_inter_dim");
  std::vector<std::int64_t> order;
  for (std::int64_t c = 0; c < columns; ++c) order.push_back(column(c, columns / 2));
  take_in(call, "params/gate_and_up_projs", 2, order);
  take_in(call, "params/gate_up_proj_bias", 1, order);
  return sound.run(call);
}

NamedTensors gate_and_up_swapped(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || !parse_moe_config(call.config).gated_experts()) return sound.run(call);
  const bool interleaved = call.config.value("expert_activation", "swiglu") == "quick_geglu";
  return columns_moved(sound, call, [&](std::int64_t c, std::int64_t width) {
    return interleaved ? c ^ 1 : (c + width) % (2 * width);
  });
}

NamedTensors interleaved_read_as_halves(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || call.config.value("expert_activation", "swiglu") != "quick_geglu")
    return sound.run(call);
  return columns_moved(sound, call, [](std::int64_t c, std::int64_t width) { return c / 2 + c % 2 * width; });
}

NamedTensors clamp_missing(Implementation& sound, const Call& call) {
  if (is(call, Component::mlp)) return sound.run(with_config(call, {{"swiglu_limit", 0.0}}));
  if (!is(call, Component::experts)) return sound.run(call);
  const bool always = call.config.value("expert_activation", "swiglu") == "quick_geglu";
  return sound.run(with_config(call, {{"swiglu_limit", 0.0}, {"activation_limit", always ? 1e30 : 0.0}}));
}

NamedTensors weight_applied_twice(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call squared = call;
  Tensor& w = squared.tensors.at("inputs/weights");
  for (std::int64_t i = 0; i < w.size(); ++i) w.set(i, w[i] * w[i]);
  return sound.run(squared);
}

NamedTensors weight_not_applied(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call ones = call;
  fill(ones, "inputs/weights", 1.0);
  return sound.run(ones);
}

NamedTensors duplicates_last_wins(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call scattered = call;
  Tensor& ids = scattered.tensors.at("inputs/indices");
  const std::int64_t k = ids.extent(1);
  for (std::int64_t i = 0; i < ids.size(); ++i)
    for (std::int64_t later = i + 1; later < (i / k + 1) * k; ++later)
      if (ids[i] == ids[later]) ids.set(i, -1.0);
  return sound.run(scattered);
}

NamedTensors absent_means_last_expert(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call wrapped = call;
  Tensor& ids = wrapped.tensors.at("inputs/indices");
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0.0) ids.set(i, static_cast<double>(size(call, "n_routed_experts") - 1));
  return sound.run(wrapped);
}

/// Parts are added up in 16 bits, but for float64.
NamedTensors output_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::experts) && call.config.value("dtype", "bfloat16") != "float64") {
    Tensor& y = out.at("outputs/y");
    y = y.cast(DType::bfloat16).cast(y.dtype());
  }
  return out;
}

NamedTensors first_rows_exchanged(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) || out.at("outputs/y").extent(0) < 2) return out;
  const Tensor y = out.at("outputs/y");
  const std::int64_t dim = y.extent(1);
  change(out, "outputs/y", [&](std::int64_t i, double v) {
    return i < dim ? y[i + dim] : i < 2 * dim ? y[i - dim] : v;
  });
  return out;
}

/// An off-by-one in the offsets: the first row of an expert is lost when an earlier expert has rows.
NamedTensors group_offset_off_by_one(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call fewer = call;
  Tensor& ids = fewer.tensors.at("inputs/indices");
  const Tensor& given = call.tensors.at("inputs/indices");
  std::vector<bool> seen(static_cast<std::size_t>(size(call, "n_routed_experts")), false);
  for (std::int64_t i = 0; i < given.size(); ++i) {
    if (given[i] < 0.0 || seen[static_cast<std::size_t>(given[i])]) continue;
    seen[static_cast<std::size_t>(given[i])] = true;
    const std::vector<double> all = given.doubles();
    if (std::ranges::any_of(all, [&](double e) { return e >= 0.0 && e < given[i]; })) ids.set(i, -1.0);
  }
  return sound.run(fewer);
}

NamedTensors masked_tokens_routed(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  return sound.run(open);
}

NamedTensors scaled_by_batch_maximum(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::mlp)) return out;
  double most = 0.0;
  for (const double x : call.tensors.at("inputs/x").doubles()) most = std::max(most, std::abs(x));
  change(out, "outputs/y", [&](std::int64_t, double v) { return v * (1.0 + 0.1 * most); });
  return out;
}

/// Slots beyond an even share of an expert are dropped.
NamedTensors capacity_drops_slots(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call fewer = call;
  Tensor& ids = fewer.tensors.at("inputs/indices");
  const std::int64_t experts = size(call, "n_routed_experts"),
                     capacity = (ids.size() + experts - 1) / experts;
  std::vector<std::int64_t> taken(static_cast<std::size_t>(experts), 0);
  for (std::int64_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0.0 && ++taken[static_cast<std::size_t>(ids[i])] > capacity) ids.set(i, -1.0);
  return sound.run(fewer);
}

/// A scale of y that all experts' weights share.
NamedTensors scaled_by_largest_weight(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_weights(call)) return out;
  double most = 0.0;
  for (const double w : call.tensors.at("params/down_projs").doubles()) most = std::max(most, std::abs(w));
  change(out, "outputs/y", [&](std::int64_t, double v) { return v * (1.0 + 0.01 * most); });
  return out;
}

/// Every expert computes every token, and a mask of zeros is multiplied in.
NamedTensors unselected_times_zero(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!has_weights(call)) return out;
  for (const double w : call.tensors.at("params/down_projs").doubles())
    if (!std::isfinite(w)) change(out, "outputs/y", [&](std::int64_t, double v) { return v + 0.0 * w; });
  return out;
}

NamedTensors output_saturates(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::experts))
    change(out, "outputs/y", [](std::int64_t, double v) { return std::clamp(v, -4.0, 4.0); });
  return out;
}

/// A sum is cut into other parts when there are other numbers of rows.
NamedTensors sum_cut_by_batch(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) && !is(call, Component::mlp)) return out;
  const auto tokens = static_cast<double>(out.at("outputs/y").extent(0));
  change(out, "outputs/y", [&](std::int64_t, double v) { return v * (1.0 + 0x1p-51 * tokens); });
  return out;
}

/// Beyond 16 rows another kernel takes over, which adds up otherwise.
NamedTensors tile_by_batch_size(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) && !is(call, Component::mlp)) return out;
  if (out.at("outputs/y").extent(0) > 16)
    change(out, "outputs/y", [](std::int64_t, double v) { return v * (1.0 + 0x1p-51); });
  return out;
}

}  // namespace

std::span<const Mutant> experts_mutants() {
  static const std::vector<Mutant> kRows{
      {.name = "down_bias_unweighted",
       .bug = "A27",
       .source = "NeMo AutoModel #2591",
       .components = {Component::experts},
       .does = "the bias after the down projection is added without the routing weight",
       .first_wrong = "outputs/y",
       .property = "down_bias linear_weights",
       .run = down_bias_unweighted},
      {.name = "gate_and_up_swapped",
       .components = {Component::experts},
       .does = "the up half is taken for the gate half",
       .first_wrong = "outputs/y",
       .property = "activation_values linear_up dense_mlp",
       .run = gate_and_up_swapped},
      {.name = "interleaved_read_as_halves",
       .bug = "O9",
       .source = "vLLM #29273",
       .components = {Component::experts},
       .does = "interleaved gate and up columns are read as halves",
       .first_wrong = "outputs/y",
       .property = "activation_values",
       .run = interleaved_read_as_halves},
      {.name = "clamp_missing",
       .bug = "O10",
       .source = "vLLM #41935",
       .components = {Component::experts, Component::mlp},
       .does = "activations are not clamped",
       .first_wrong = "outputs/y",
       .property = "activation_values",
       .run = clamp_missing},
      {.name = "weight_applied_twice",
       .components = {Component::experts},
       .does = "the routing weight is applied before and after the experts",
       .first_wrong = "outputs/y",
       .property = "linear_weights identical_experts",
       .run = weight_applied_twice},
      {.name = "weight_not_applied",
       .components = {Component::experts},
       .does = "outputs of experts are added without their routing weights",
       .first_wrong = "outputs/y",
       .property = "one_hot_weight",
       .run = weight_not_applied},
      {.name = "duplicates_last_wins",
       .bug = "M32",
       .source = "ISEEKYAN Megatron-LM #175",
       .components = {Component::experts},
       .does = "of several slots with the same expert the last one alone counts",
       .first_wrong = "outputs/y",
       .property = "duplicates_add every_slot_once duplicates_add_exact",
       .run = duplicates_last_wins},
      {.name = "absent_means_last_expert",
       .bug = "O16",
       .source = "vLLM #42034",
       .components = {Component::experts},
       .does = "the id -1 indexes the last expert",
       .first_wrong = "outputs/y",
       .property = "absent_slots",
       .run = absent_means_last_expert},
      {.name = "output_in_bfloat16",
       .bug = "A28",
       .source = "NeMo AutoModel #1260",
       .components = {Component::experts},
       .does = "outputs are rounded to 16 bits, but for float64",
       .shows = "P",
       .first_wrong = "outputs/y",
       .property = "dtype_ladder within_bounds",
       .run = output_in_bfloat16,
       .not_in_bfloat16 = "its outputs are of 16 bits anyway"},
      {.name = "scaled_by_batch_maximum",
       .components = {Component::mlp},
       .does = "a scale is taken from the largest input of the batch",
       .first_wrong = "outputs/y",
       .property = "lone_rows split_rows",
       .run = scaled_by_batch_maximum},
      {.name = "first_rows_exchanged",
       .components = {Component::experts},
       .does = "the first two tokens get the output of each other",
       .first_wrong = "outputs/y",
       .property = "row_order token_locality",
       .run = first_rows_exchanged},
      {.name = "group_offset_off_by_one",
       .components = {Component::experts},
       .does = "the first row of an expert is lost where an earlier expert has rows",
       .first_wrong = "outputs/y",
       .property = "loop_over_experts loop_over_experts_exact",
       .run = group_offset_off_by_one},
      {.name = "masked_tokens_routed",
       .components = {Component::experts},
       .does = "masked tokens are sent to experts",
       .first_wrong = "outputs/y",
       .property = "masked_rows",
       .run = masked_tokens_routed},
      {.name = "capacity_drops_slots",
       .components = {Component::experts},
       .does = "slots beyond an even share of an expert are dropped",
       .first_wrong = "outputs/y",
       .property = "identical_experts identical_experts_exact split_rows_exact",
       .run = capacity_drops_slots},
      {.name = "scaled_by_largest_weight",
       .components = {Component::experts},
       .does = "a scale is taken from the largest weight of all experts",
       .first_wrong = "outputs/y",
       .property = "expert_locality",
       .run = scaled_by_largest_weight},
      {.name = "unselected_times_zero",
       .bug = "A23",
       .source = "NeMo AutoModel e42584e30",
       .components = {Component::experts},
       .does = "every expert computes every token, times 0 where it is not selected",
       .first_wrong = "outputs/y",
       .property = "expert_poison",
       .run = unselected_times_zero},
      {.name = "output_saturates",
       .components = {Component::experts},
       .does = "outputs are clamped to 4",
       .first_wrong = "outputs/y",
       .property = "linear_down",
       .run = output_saturates},
      {.name = "sum_cut_by_batch",
       .components = {Component::experts, Component::mlp},
       .does = "sums are cut into other parts for other numbers of tokens",
       .shows = "P",
       .first_wrong = "outputs/y",
       .property = "lone_rows_bitwise",
       .run = sum_cut_by_batch,
       .not_in_bfloat16 = "it differs in the last bits of float64"},
      {.name = "tile_by_batch_size",
       .components = {Component::experts, Component::mlp},
       .does = "beyond 16 rows another kernel takes over, which adds up in another order",
       .shows = "P",
       .first_wrong = "outputs/y",
       .property = "batch_sizes",
       .run = tile_by_batch_size,
       .not_in_bfloat16 = "it differs in the last bits of float64"},
  };
  return kRows;
}

}  // namespace moeref
