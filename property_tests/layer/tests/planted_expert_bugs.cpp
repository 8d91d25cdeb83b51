// Wrong experts and MLPs in their forward pass: see planted_bugs.hpp.
#include <algorithm>
#include <cmath>

#include "property_tests/layer/tests/layer_bug_parts.hpp"

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
  if (!is(call, Component::experts)) return out;
  double most = 0.0;
  for (const double w : call.tensors.at("params/down_projs").doubles()) most = std::max(most, std::abs(w));
  change(out, "outputs/y", [&](std::int64_t, double v) { return v * (1.0 + 0.01 * most); });
  return out;
}

/// Every expert computes every token, and a mask of zeros is multiplied in.
NamedTensors unselected_times_zero(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts)) return out;
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

constexpr PlantedBug kBugs[] = {
    {"down_bias_unweighted", "A27", "down_bias", down_bias_unweighted},
    {"down_bias_unweighted", "A27", "linear_weights", down_bias_unweighted},
    {"gate_and_up_swapped", "", "activation_values", gate_and_up_swapped},
    {"gate_and_up_swapped", "", "linear_up", gate_and_up_swapped},
    {"gate_and_up_swapped", "", "dense_mlp", gate_and_up_swapped},
    {"interleaved_read_as_halves", "O9", "activation_values", interleaved_read_as_halves},
    {"clamp_missing", "O10", "activation_values", clamp_missing},
    {"weight_applied_twice", "", "linear_weights", weight_applied_twice},
    {"weight_applied_twice", "", "identical_experts", weight_applied_twice},
    {"weight_not_applied", "", "one_hot_weight", weight_not_applied},
    {"duplicates_last_wins", "M32", "duplicates_add", duplicates_last_wins},
    {"duplicates_last_wins", "M32", "every_slot_once", duplicates_last_wins},
    {"absent_means_last_expert", "O16", "absent_slots", absent_means_last_expert},
    {"tile_by_batch_size", "", "batch_sizes", tile_by_batch_size},
    {"output_in_bfloat16", "A28", "dtype_ladder", output_in_bfloat16},
    {"scaled_by_batch_maximum", "", "lone_rows", scaled_by_batch_maximum},
    {"scaled_by_batch_maximum", "", "split_rows", scaled_by_batch_maximum},
    {"first_rows_exchanged", "", "row_order", first_rows_exchanged},
    {"first_rows_exchanged", "", "token_locality", first_rows_exchanged},
    {"group_offset_off_by_one", "", "loop_over_experts", group_offset_off_by_one},
    {"masked_tokens_routed", "", "masked_rows", masked_tokens_routed},
    {"group_offset_off_by_one", "", "loop_over_experts_exact", group_offset_off_by_one},
    {"duplicates_last_wins", "M32", "duplicates_add_exact", duplicates_last_wins},
    {"capacity_drops_slots", "", "identical_experts", capacity_drops_slots},
    {"capacity_drops_slots", "", "identical_experts_exact", capacity_drops_slots},
    {"capacity_drops_slots", "", "split_rows_exact", capacity_drops_slots},
    {"scaled_by_largest_weight", "", "expert_locality", scaled_by_largest_weight},
    {"unselected_times_zero", "A23", "expert_poison", unselected_times_zero},
    {"output_saturates", "", "linear_down", output_saturates},
    {"sum_cut_by_batch", "", "lone_rows_bitwise", sum_cut_by_batch},
    {"output_in_bfloat16", "A28", "within_bounds", output_in_bfloat16},
};

}  // namespace

std::span<const PlantedBug> planted_expert_bugs() { return kBugs; }

}  // namespace moeref
