#include "planted_layer_bugs.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "layer_calls.hpp"
#include "moeref/config.hpp"
#include "router_oracle.hpp"

namespace moeref {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

bool is(const Call& call, Component component) { return call.component == component; }
std::int64_t size(const Call& call, const char* field) { return call.config.at(field).get<std::int64_t>(); }
bool gated(const Call& call) { return parse_moe_config(call.config).gated_experts(); }

/// Elements i of a result changed to f(i, value).
template <typename F>
void change(NamedTensors& results, std::string_view name, F&& f) {
  const auto found = results.find(name);
  if (found == results.end()) return;
  for (std::int64_t i = 0; i < found->second.size(); ++i) found->second.set(i, f(i, found->second[i]));
}

/// The rank that owns a token, when they are spread as evenly as possible.
std::int64_t rank_of(std::int64_t token, std::int64_t tokens, const ParallelOptions& parallel) {
  std::int64_t end = 0;
  for (std::int64_t r = 0; r < parallel.ep_size; ++r) {
    end += parallel.tokens_per_rank.empty() ? tokens / parallel.ep_size + (r < tokens % parallel.ep_size)
                                            : parallel.tokens_per_rank[static_cast<std::size_t>(r)];
    if (token < end) return r;
  }
  return parallel.ep_size - 1;
}

NamedTensors down_bias_unweighted(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts) || !call.tensors.contains("params/down_proj_bias"))
    return sound.run(call);
  Call bare = call;
  Tensor& bias = bare.tensors.at("params/down_proj_bias");
  bias = filled(bias.dtype(), bias.shape(), 0.0);
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
  if (!is(call, Component::experts) || !gated(call)) return sound.run(call);
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
  Tensor& w = ones.tensors.at("inputs/weights");
  w = filled(w.dtype(), w.shape(), 1.0);
  return sound.run(ones);
}

/// Whether any live slot is of the expert.
bool has_tokens(const Call& call, const NamedTensors& results, std::int64_t expert) {
  const Tensor* ids = find(call.tensors, "inputs/indices");
  if (!ids) ids = &results.at("outputs/indices");
  for (std::int64_t i = 0; i < ids->size(); ++i)
    if ((*ids)[i] == static_cast<double>(expert) && is_live(call, i / ids->extent(1))) return true;
  return false;
}

NamedTensors empty_gradient_uninitialised(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!call.backward || (!is(call, Component::experts) && !is(call, Component::moe))) return out;
  const std::int64_t experts = size(call, "n_routed_experts");
  change(out, expert_tensor(call.component, "grads", "down_projs"), [&](std::int64_t i, double g) {
    const std::int64_t width = size(call, "moe_inter_dim") * parse_moe_config(call.config).expert_dim();
    return i / width < experts && !has_tokens(call, out, i / width) ? 1e-30 : g;
  });
  return out;
}

NamedTensors shared_experts_skip_masked(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || size(call, "n_shared_experts") == 0) return out;
  Call bare = with_config(call, {{"n_shared_experts", 0}, {"shared_expert_gate", false}});
  std::erase_if(bare.tensors, [](const auto& entry) { return entry.first.starts_with("params/shared_"); });
  const NamedTensors routed = sound.run(bare);
  const std::int64_t dim = size(call, "dim");
  change(out, "outputs/y",
         [&](std::int64_t i, double y) { return is_live(call, i / dim) ? y : routed.at("outputs/y")[i]; });
  return out;
}

NamedTensors shared_gate_not_applied(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.tensors.contains("params/shared_expert_gate.weight"))
    return sound.run(call);
  NamedTensors out = sound.run(call);
  Call open = with_config(call, {{"shared_expert_gate", false}});
  open.tensors.erase("params/shared_expert_gate.weight");
  out["outputs/y"] = sound.run(open).at("outputs/y");
  return out;
}

NamedTensors score_gradient_of_own_rank(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  if (!is(call, Component::experts) || !call.backward || parallel.ep_size == 1) return out;
  const Tensor& ids = call.tensors.at("inputs/indices");
  const std::int64_t own = size(call, "n_routed_experts") / parallel.ep_size;
  change(out, "grads/weights", [&](std::int64_t i, double g) {
    const std::int64_t rank = rank_of(i / ids.extent(1), ids.extent(0), parallel);
    return static_cast<std::int64_t>(ids[i]) / own == rank ? g : 0.0;
  });
  return out;
}

NamedTensors token_of_rank_one_dropped(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  if ((!is(call, Component::experts) && !is(call, Component::moe)) || parallel.ep_size == 1) return out;
  const Tensor& y = out.at("outputs/y");
  const std::int64_t dim = y.shape().back(), tokens = dim > 0 ? y.size() / dim : 0;
  std::int64_t dropped = 0;
  while (dropped < tokens && rank_of(dropped, tokens, parallel) != 1) ++dropped;
  change(out, "outputs/y", [&](std::int64_t i, double value) { return i / dim == dropped ? 0.0 : value; });
  return out;
}

/// Of a token's slots on one rank only the first travels.
NamedTensors one_slot_for_each_rank(Implementation& sound, const Call& call) {
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  if (!is(call, Component::experts) || parallel.ep_size == 1) return sound.run(call);
  Call fewer = call;
  Tensor& ids = fewer.tensors.at("inputs/indices");
  const std::int64_t own = size(call, "n_routed_experts") / parallel.ep_size, k = ids.extent(1);
  for (std::int64_t i = 0; i < ids.size(); ++i)
    for (std::int64_t j = i / k * k; j < i; ++j)
      if (ids[i] >= 0.0 && ids[j] >= 0.0 &&
          static_cast<std::int64_t>(ids[i]) / own == static_cast<std::int64_t>(ids[j]) / own)
        ids.set(i, -1.0);
  return sound.run(fewer);
}

NamedTensors down_gradient_transposed(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) || !call.backward) return out;
  const Tensor from = out.at("grads/down_projs");
  const std::int64_t rows = from.extent(1), cols = from.extent(2), block = rows * cols;
  change(out, "grads/down_projs", [&](std::int64_t i, double) {
    const std::int64_t r = i % block / cols, c = i % cols;
    return from[i / block * block + (c * rows + r)];
  });
  return out;
}

NamedTensors gate_gradient_misses_slope(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::mlp))
    change(out, "grads/gate_proj.weight", [](std::int64_t, double g) { return 0.9 * g; });
  return out;
}

NamedTensors loss_gradient_dropped(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.backward) return sound.run(call);
  NamedTensors out = sound.run(with_config(call, {{"aux_loss_coeff", 0.0}}));
  for (auto& [name, tensor] : sound.run(call))
    if (name.starts_with("outputs/")) out[name] = tensor;
  return out;
}

NamedTensors weights_detached(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe)) return out;
  for (const char* name : {"grads/gate.weight", "grads/gate.bias"})
    change(out, name, [](std::int64_t, double) { return 0.0; });
  return out;
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

NamedTensors sum_of_x_times_zero(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::experts) && !is(call, Component::moe)) return out;
  for (const double x : call.tensors.at("inputs/x").doubles())
    if (!std::isfinite(x)) change(out, "outputs/y", [](std::int64_t, double) { return kNaN; });
  return out;
}

/// Every call adds to what the last one of the same size left behind.
NamedTensors adds_to_dirty_output(Implementation& sound, const Call& call) {
  static Tensor left;
  NamedTensors out = sound.run(call);
  const Tensor y = out.contains("outputs/y") ? out.at("outputs/y") : Tensor();
  if (y.shape() == left.shape())
    change(out, "outputs/y",
           [](std::int64_t i, double v) { return std::isfinite(left[i]) ? v + left[i] : v; });
  left = y;
  return out;
}

NamedTensors output_in_bfloat16(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (is(call, Component::experts)) {
    Tensor& y = out.at("outputs/y");
    y = y.cast(DType::bfloat16).cast(y.dtype());
  }
  return out;
}

NamedTensors sum_in_random_order(Implementation& sound, const Call& call) {
  static int calls = 0;
  NamedTensors out = sound.run(call);
  ++calls;
  change(out, "outputs/y", [](std::int64_t, double v) { return v * (1.0 + 1e-15 * calls); });
  return out;
}

NamedTensors end_of_sequence_lost(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || call.tensors.at("inputs/x").shape().size() < 3) return out;
  const std::int64_t length = out.at("outputs/y").extent(1), dim = out.at("outputs/y").extent(2);
  change(out, "outputs/y",
         [&](std::int64_t i, double v) { return i / dim % length == length - 1 ? 0.0 : v; });
  return out;
}

NamedTensors loss_of_first_rank(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  const ParallelOptions parallel = parse_call_options(call.options).parallel;
  if (!is(call, Component::moe) || parallel.cp_size == 1 || !out.contains("outputs/aux_loss")) return out;
  Call local = call;
  for (const char* option : {"cp_size", "tokens_per_rank"}) local.options.erase(option);
  const std::int64_t tokens = call.tensors.at("inputs/x").extent(0),
                     own = (tokens + parallel.cp_size - 1) / parallel.cp_size;
  Tensor& mask = local.tensors["inputs/padding_mask"];
  if (mask.size() != tokens || mask.dtype() != DType::boolean) mask = filled(DType::boolean, {tokens}, 0.0);
  for (std::int64_t t = own; t < tokens; ++t) mask.set(t, 1.0);
  out["outputs/aux_loss"] = sound.run(local).at("outputs/aux_loss");
  return out;
}

NamedTensors padding_counted_in_load(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe)) return out;
  Call open = call;
  open.tensors.erase("inputs/padding_mask");
  out["outputs/expert_load"] = sound.run(open).at("outputs/expert_load");
  return out;
}

NamedTensors scaled_by_batch_maximum(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::mlp)) return out;
  double most = 0.0;
  for (const double x : call.tensors.at("inputs/x").doubles()) most = std::max(most, std::abs(x));
  change(out, "outputs/y", [&](std::int64_t, double v) { return v * (1.0 + 0.1 * most); });
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

NamedTensors expert_zero_counted_for_all_ranks(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call more = call;
  change_slice(more.tensors.at("params/down_projs"), 0, [](double v) { return 2.0 * v; });
  return sound.run(more);
}

NamedTensors masked_tokens_miss_latent_bias(Implementation& sound, const Call& call) {
  NamedTensors out = sound.run(call);
  if (!is(call, Component::moe) || size(call, "n_shared_experts") > 0) return out;
  const std::int64_t dim = size(call, "dim");
  change(out, "outputs/y", [&](std::int64_t i, double v) { return is_live(call, i / dim) ? v : 0.0; });
  return out;
}

NamedTensors masked_tokens_routed(Implementation& sound, const Call& call) {
  if (!is(call, Component::experts)) return sound.run(call);
  Call open = call;
  open.tensors.erase("inputs/token_mask");
  return sound.run(open);
}

NamedTensors cotangent_of_next_token(Implementation& sound, const Call& call) {
  if (!is(call, Component::mlp) || !call.backward) return sound.run(call);
  Call shifted = call;
  const std::int64_t tokens = call.tensors.at("inputs/x").extent(0);
  std::vector<std::int64_t> next;
  for (std::int64_t t = 0; t < tokens; ++t) next.push_back((t + 1) % tokens);
  take_in(shifted, "cotangents/y", 0, next);
  return sound.run(shifted);
}

NamedTensors latent_bias_lost(Implementation& sound, const Call& call) {
  if (!is(call, Component::moe) || !call.tensors.contains("params/fc1_latent_proj.bias"))
    return sound.run(call);
  Call bare = call;
  Tensor& bias = bare.tensors.at("params/fc1_latent_proj.bias");
  bias = filled(bias.dtype(), bias.shape(), 0.0);
  return sound.run(bare);
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
    {"empty_gradient_uninitialised", "O25", "zero_token_expert", empty_gradient_uninitialised},
    {"shared_experts_skip_masked", "", "shared_adds", shared_experts_skip_masked},
    {"shared_gate_not_applied", "O14", "shared_adds", shared_gate_not_applied},
    {"shared_gate_not_applied", "O14", "central_differences", shared_gate_not_applied},
    {"score_gradient_of_own_rank", "O18", "expert_ranks", score_gradient_of_own_rank},
    {"score_gradient_of_own_rank", "O18", "rank_tokens", score_gradient_of_own_rank},
    {"token_of_rank_one_dropped", "O38", "expert_ranks_exact", token_of_rank_one_dropped},
    {"token_of_rank_one_dropped", "O38", "every_slot_once", token_of_rank_one_dropped},
    {"one_slot_for_each_rank", "M20", "every_slot_once", one_slot_for_each_rank},
    {"down_gradient_transposed", "", "linear_adjoint", down_gradient_transposed},
    {"gate_gradient_misses_slope", "", "central_differences", gate_gradient_misses_slope},
    {"loss_gradient_dropped", "A1", "layer_loss_scale", loss_gradient_dropped},
    {"loss_gradient_dropped", "A1", "central_differences", loss_gradient_dropped},
    {"weights_detached", "A20", "gate_gradient_rows", weights_detached},
    {"duplicates_last_wins", "M32", "duplicates_add", duplicates_last_wins},
    {"duplicates_last_wins", "M32", "every_slot_once", duplicates_last_wins},
    {"absent_means_last_expert", "O16", "absent_slots", absent_means_last_expert},
    {"sum_of_x_times_zero", "A23", "token_poison", sum_of_x_times_zero},
    {"adds_to_dirty_output", "", "earlier_calls", adds_to_dirty_output},
    {"output_in_bfloat16", "A28", "dtype_ladder", output_in_bfloat16},
    {"sum_in_random_order", "O36", "rerun", sum_in_random_order},
    {"end_of_sequence_lost", "O20", "batch_shape", end_of_sequence_lost},
    {"loss_of_first_rank", "A8", "context_ranks", loss_of_first_rank},
    {"padding_counted_in_load", "M1", "layer_load", padding_counted_in_load},
    {"scaled_by_batch_maximum", "", "lone_rows", scaled_by_batch_maximum},
    {"scaled_by_batch_maximum", "", "split_rows", scaled_by_batch_maximum},
    {"first_rows_exchanged", "", "row_order", first_rows_exchanged},
    {"first_rows_exchanged", "", "token_locality", first_rows_exchanged},
    {"group_offset_off_by_one", "", "loop_over_experts", group_offset_off_by_one},
    {"expert_zero_counted_for_all_ranks", "", "expert_placement", expert_zero_counted_for_all_ranks},
    {"masked_tokens_miss_latent_bias", "", "masked_rows", masked_tokens_miss_latent_bias},
    {"latent_bias_lost", "", "latent_projections", latent_bias_lost},
    {"masked_tokens_routed", "", "masked_rows", masked_tokens_routed},
    {"cotangent_of_next_token", "", "central_differences", cotangent_of_next_token},
};

}  // namespace

std::span<const PlantedBug> planted_layer_bugs() { return kBugs; }

}  // namespace moeref
