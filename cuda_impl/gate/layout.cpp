#include "cuda_impl/gate/layout.hpp"

#include <algorithm>
#include <iterator>
#include <string>

#include "cuda_impl/gate/score.cuh"
#include "moeref/cuda/error.hpp"
#include "reference_cpu/call/enumerators.hpp"

namespace moeref::cuda {
namespace {

void want(bool right, const char* field, std::int64_t value, const std::string& wanted) {
  if (!right) throw ArgumentError(std::string(field) + " is " + std::to_string(value) + ": want " + wanted);
}
void want(bool right, const char* field, double value, const std::string& wanted) {
  if (!right) throw ArgumentError(std::string(field) + " is " + std::to_string(value) + ": want " + wanted);
}

static_assert(has_row_per_enumerator<kScoreRows>());

const ScoreRow& row(const GateConfig& c) { return kScoreRows[static_cast<std::size_t>(c.score_function)]; }

bool is_grouped(const GateConfig& c) {
  return c.groups > 1 && (row(c).grouped || (c.group_sum > 0 && !row(c).chooses_by_logits));
}
int group_sum(const GateConfig& c, bool has_correction) {
  if (c.group_sum > 0) return c.group_sum;
  return !row(c).top2_if_corrected || has_correction ? 2 : 1;
}

}  // namespace

void check_config(const GateConfig& c) {
  const auto function = static_cast<std::int64_t>(c.score_function);
  want(function >= 0 && function < std::ssize(kScoreRows), "score_function", function,
       "one of the " + std::to_string(kScoreRows.size()));
  want(c.experts >= 1 && c.experts <= kMostExperts, "experts", std::int64_t{c.experts}, "1 to 1024");
  want(c.dim >= 1, "dim", std::int64_t{c.dim}, "1 or more");
  want(c.slots >= 1 && c.slots <= c.experts, "slots", std::int64_t{c.slots},
       "1 to experts = " + std::to_string(c.experts));
  want(c.slots <= kMostSlots, "slots", std::int64_t{c.slots}, "64 at most");
  // The products' grids: a block for 64 x 32 or 128 x 64 elements at the smallest.
  const std::int64_t most = (std::int64_t{1} << 42) / std::max((c.dim + 63) / 64 * 64, c.experts);
  want(c.tokens >= 0 && c.tokens <= most, "tokens", c.tokens, "0 to " + std::to_string(most));
  want(c.groups >= 1 && c.experts % c.groups == 0, "groups", std::int64_t{c.groups},
       "a divisor of experts = " + std::to_string(c.experts));
  want(c.limited_groups >= 1 && c.limited_groups <= c.groups, "limited_groups",
       std::int64_t{c.limited_groups}, "1 to groups = " + std::to_string(c.groups));
  const int reachable = c.limited_groups * (c.experts / c.groups);
  want(!is_grouped(c) || c.slots <= reachable, "slots", std::int64_t{c.slots},
       "at most limited_groups * experts / groups = " + std::to_string(reachable));
  check_matrix_type(c.x_type, "x_type");
  check_matrix_type(c.parameter_type, "parameter_type");
  if (c.precision && !is_matrix_type(*c.precision) && c.precision != DataType::float64)
    throw ArgumentError("precision is not of a floating type: want bfloat16, float16, float32 or float64");
  want(c.aux_loss_coeff >= 0.0, "aux_loss_coeff", c.aux_loss_coeff, "0 or more");
  want(c.batch_loss_coeff >= 0.0, "batch_loss_coeff", c.batch_loss_coeff, "0 or more");
  want(c.global_loss_coeff >= 0.0, "global_loss_coeff", c.global_loss_coeff, "0 or more");
  want(c.z_loss_coeff >= 0.0, "z_loss_coeff", c.z_loss_coeff, "0 or more");
  want(c.loss_sequences >= 1 && c.tokens % c.loss_rule().sequences == 0, "loss_sequences",
       std::int64_t{c.loss_sequences}, "a divisor of tokens = " + std::to_string(c.tokens));
  want(c.loss_sequences == 1 || !c.loss_accumulated, "loss_sequences", std::int64_t{c.loss_sequences},
       "1 with loss_accumulated");
  want(c.norm_eps >= 0.0, "norm_eps", c.norm_eps, "0 or more");
  want(c.group_sum >= 0, "group_sum", std::int64_t{c.group_sum}, "0 or more");
  want(c.logit_scale > 0.0, "logit_scale", c.logit_scale, "a number above 0");
  want(c.logit_cap >= 0.0, "logit_cap", c.logit_cap, "0 or more");
  want(c.router_input_norm_eps >= 0.0, "router_input_norm_eps", c.router_input_norm_eps, "0 or more");
  want(c.always_selected >= 0 && c.always_selected < c.slots, "always_selected",
       std::int64_t{c.always_selected}, "0 to slots - 1 = " + std::to_string(c.slots - 1));
  want(!c.balances || (!is_grouped(c) && c.always_selected == 0), "balances", std::int64_t{c.balances},
       "0 where experts are selected within groups or always");
  want(c.sinkhorn_tolerance > 0.0, "sinkhorn_tolerance", c.sinkhorn_tolerance, "a number above 0");
  want(c.always_selected == 0 || !is_grouped(c), "always_selected", std::int64_t{c.always_selected},
       "0 where experts are selected within groups");
  want(c.capacity.expert_capacity >= 0, "expert_capacity", c.capacity.expert_capacity, "0 or more");
  want(c.capacity.capacity_factor >= 0.0, "capacity_factor", c.capacity.capacity_factor, "0 or more");
  want(c.capacity.capacity_factor == 0.0 || c.capacity.expert_capacity == 0, "expert_capacity",
       c.capacity.expert_capacity, "0 with capacity_factor");
  want(c.capacity.min_capacity >= 0, "min_capacity", c.capacity.min_capacity, "0 or more");
  want(c.null_id == -1 || c.null_id == c.experts, "null_id", std::int64_t{c.null_id}, "-1 or experts");
}

void check_given(const GateConfig& c, const GateParameters& w, const GateInput& in) {
  const bool has_correction = w.correction != nullptr;
  if (c.router_jitter && !in.noise) throw ArgumentError("noise is null: want [T, D] with router_jitter");
  if (c.router_input_norm && !w.input_scale)
    throw ArgumentError("input_scale is null: want [D] with router_input_norm");
  if (c.loss_rule().adds_earlier_loads() && !in.accumulated_load)
    throw ArgumentError("accumulated_load is null: want [E] with loss_accumulated or global_loss_coeff");
  if (c.per_expert_scale && !w.expert_scale)
    throw ArgumentError("expert_scale is null: want [E] with per_expert_scale");
  want(!c.selects_logits || !has_correction || !row(c).weighs_corrected || !c.weight_uses_correction,
       "selects_logits", std::int64_t{c.selects_logits},
       "0 with weight_uses_correction, whose weights are what is ordered");
  want(!c.balances || !has_correction, "balances", std::int64_t{c.balances}, "0 with a correction bias");
  const int sum = group_sum(c, has_correction);
  want(!is_grouped(c) || c.experts / c.groups >= sum, "groups", std::int64_t{c.groups},
       "groups of " + std::to_string(sum) + " experts or more, since a group's score is the sum of its " +
           std::to_string(sum) + " largest");
}

DataType scores_type(const GateConfig& c) {
  const bool given = c.precision.has_value();
  if (given && !c.weights_fp32) return c.x_type;
  if (row(c).at_float32) return DataType::float32;
  const DataType run = given ? c.compute_type() : DataType::float32;
  // The correction bias that these weights include is float32.
  if (row(c).weighs_corrected && c.weight_uses_correction)
    return run == DataType::float64 ? DataType::float64 : DataType::float32;
  return run;
}

RoutingRule routing_rule(const GateConfig& c, bool has_correction) {
  RoutingRule rule{};
  const ScoreRow& its = row(c);
  rule.formula = its.formula;
  rule.softmax_before_topk = its.chooses_by_logits && c.softmax_before_topk;
  rule.softmax_of_selected = its.chooses_by_logits && !c.softmax_before_topk;
  rule.raw_weights = c.divides_after_dropping();
  rule.normalise = c.normalises_weights() && !rule.raw_weights;
  rule.normalise_scores = c.normalises_scores();
  rule.corrected = has_correction && !its.chooses_by_logits;
  rule.weigh_corrected = rule.corrected && c.weight_uses_correction && its.weighs_corrected;
  rule.experts = c.experts;
  rule.slots = c.slots;
  rule.groups = is_grouped(c) ? c.groups : 1;
  rule.limited_groups = is_grouped(c) ? c.limited_groups : 1;
  rule.group_top2 = group_sum(c, has_correction) == 2;
  rule.discard_to_zero = c.discards_to_zero.value_or(its.discard_to_zero);
  rule.route_scale = c.route_scale;
  rule.compute = c.compute_type();
  rule.scores = scores_type(c);
  rule.norm_at_most = c.norm_at_most;
  rule.norm_eps = c.norm_eps;
  rule.selects_logits = c.selects_logits && !its.chooses_by_logits;
  rule.maps_logits = c.logit_scale != 1.0 || c.logit_cap > 0.0;
  rule.logit_scale = c.logit_scale;
  rule.logit_cap = c.logit_cap;
  rule.group_sum = rule.groups > 1 ? group_sum(c, has_correction) : 0;
  rule.always_selected = c.always_selected;
  rule.beyond = rule.normalise_scores != rule.normalise || rule.norm_at_most || rule.norm_eps != 1e-20 ||
                rule.selects_logits || rule.maps_logits || rule.group_sum > 2 || rule.always_selected > 0 ||
                rule.raw_weights || c.per_expert_scale || c.has_z_loss() || c.loss_rule().first_choice ||
                c.loss_rule().sequences > 1 || c.balances_selection();
  return rule;
}

TokenBlocks token_blocks(const GateConfig& c) {
  return token_blocks(c.tokens, c.experts, c.compute_type() == DataType::float64);
}
TokenBlocks route_blocks(const GateConfig& c) {
  return token_blocks(c.tokens, c.experts, c.compute_type() == DataType::float64, c.loss_rule().sequences);
}

AuxLossRule loss_rule(const GateConfig& c, const GateInput& in) {
  AuxLossRule rule = c.loss_rule();
  if (rule.adds_earlier_loads()) rule.accumulated = in.accumulated_load;
  return rule;
}

// float16 has no exponents for the lower planes of an fp32 value.
int weight_planes(const GateConfig& c) {
  const DataType input = input_type(c);
  if (c.parameter_type != DataType::float32 || c.dim % 8 != 0 || bytes_of(input) != 2) return 0;
  if (c.compute_type() == input) return 1;
  return c.compute_type() == DataType::float32 && input == DataType::bfloat16 ? kPlanes : 0;
}

Operand weight_operand(const GateConfig& c, const void* weight, void* planes, std::int64_t row_stride,
                       std::int64_t col_stride, cudaStream_t stream) {
  const int count = weight_planes(c);
  if (count == 0) return {weight, c.parameter_type, row_stride, col_stride};
  const std::int64_t elements = std::int64_t{c.experts} * c.dim;
  split_in_planes(static_cast<const float*>(weight), elements, input_type(c), count, planes, stream);
  return {planes, input_type(c), row_stride, col_stride, count, elements};
}

bool holds_planes(const GateConfig& c) {
  return c.compute_type() == DataType::float32 && input_type(c) == DataType::bfloat16 &&
         (c.parameter_type == DataType::bfloat16 || weight_planes(c) > 0);
}

static std::size_t plane_bytes(const GateConfig& c) {
  return static_cast<std::size_t>(weight_planes(c)) * static_cast<std::size_t>(c.experts) *
         static_cast<std::size_t>(c.dim) * 2;
}

static std::size_t input_bytes(const GateConfig& c) {
  return makes_input(c) ? static_cast<std::size_t>(c.tokens * c.dim) * bytes_of(input_type(c)) : 0;
}

std::size_t sum_bytes(const GateConfig& c) { return c.compute_type() == DataType::float64 ? 8 : 4; }

ProductShape logits_shape(const GateConfig& c) { return split_product(c.tokens, c.experts, c.dim); }
ProductShape weight_gradient_shape(const GateConfig& c) { return split_product(c.experts, c.dim, c.tokens); }

CapacityShape capacity_shape(const GateConfig& c) { return {c.tokens, c.experts, c.slots}; }

KeptSlots kept_slots(const GateConfig& c, const GateParameters& w, const int* dispatched,
                     const void* values) {
  KeptSlots kept{.tokens = c.tokens,
                 .slots = c.slots,
                 .experts = c.experts,
                 .dispatched = dispatched,
                 .values_type = accumulator_type(c)};
  if (!c.divides_after_dropping()) return kept;
  kept.values = values;
  kept.norm_at_most = c.norm_at_most, kept.norm_eps = c.norm_eps, kept.route_scale = c.route_scale;
  if (c.per_expert_scale) kept.expert_scale = w.expert_scale, kept.parameter_type = c.parameter_type;
  return kept;
}

static std::size_t dropping_slots(const GateConfig& c) {
  return c.capacity.drops_slots() ? static_cast<std::size_t>(c.tokens * c.slots) : 0;
}
static std::size_t raw_weight_bytes(const GateConfig& c) {
  return c.divides_after_dropping() ? dropping_slots(c) * sum_bytes(c) : 0;
}

GateSaved::GateSaved(Arena& arena, const GateConfig& c)
    : logits(arena.take<char>(c.tokens * c.experts * bytes_of(c.compute_type()))),
      aux_gradient(arena.take<double>(std::int64_t{c.loss_rule().sequences} * c.experts)),
      z_inverse_n(arena.take<double>(c.has_z_loss() ? 1 : 0)),
      dispatched(arena.take<int>(dropping_slots(c))),
      raw_weights(arena.take_bytes(raw_weight_bytes(c))) {}

GateForwardWorkspace::GateForwardWorkspace(Arena& arena, const GateConfig& c)
    : input(arena.take_bytes(input_bytes(c))),
      weight_planes(arena.take_bytes(plane_bytes(c))),
      partial_logits(arena.take<char>(std::max(1, cuda::weight_planes(c)) * logits_shape(c).splits *
                                      c.tokens * c.experts * sum_bytes(c))),
      block_load(arena.take<int>(std::int64_t{route_blocks(c).blocks} * c.experts)),
      block_tokens(arena.take<int>(route_blocks(c).blocks)),
      block_sums(arena.take<char>(route_blocks(c).blocks * c.experts * sum_bytes(c))),
      load(arena.take<std::int64_t>(c.experts)),
      real_tokens(arena.take<std::int64_t>(1)),
      score_sum(arena.take<double>(c.experts)),
      capacity(arena.take_bytes(c.capacity.drops_slots() ? capacity_workspace_bytes(capacity_shape(c)) : 0)),
      dispatched(arena.take<int>(dropping_slots(c))),
      order_weights(arena.take<float>(dropping_slots(c))),
      raw_weights(arena.take_bytes(raw_weight_bytes(c))),
      block_squares(arena.take<double>(c.has_z_loss() ? route_blocks(c).blocks : 0)),
      block_first_choices(
          arena.take<int>(c.loss_rule().first_choice ? std::int64_t{route_blocks(c).blocks} * c.experts : 0)),
      sequences(arena, c.experts, c.loss_rule()) {
  const std::int64_t tokens = c.balances_selection() ? c.tokens : 0;
  balanced.grown = arena.take<float>(tokens * c.experts);
  balanced.tokens = arena.take<float>(tokens);
  balanced.experts = arena.take<float>(tokens > 0 ? c.experts : 0);
}

GateBackwardWorkspace::GateBackwardWorkspace(Arena& arena, const GateConfig& c)
    : input(arena.take_bytes(input_bytes(c))),
      d_input(arena.take_bytes(input_bytes(c))),
      inverse_roots(arena.take<float>(c.router_input_norm ? c.tokens : 0)),
      scale_parts(arena.take<float>(c.router_input_norm ? std::int64_t{norm_weight_parts(c.tokens)} * c.dim
                                                        : std::int64_t{0})),
      weight_planes(arena.take_bytes(plane_bytes(c))),
      d_logits(arena.take<char>(c.tokens * logit_stride(c) *
                                (holds_planes(c) ? kPlanes * 2 : bytes_of(c.compute_type())))),
      block_sums(arena.take<char>(token_blocks(c).blocks * c.experts * sum_bytes(c))),
      scale_terms(arena.take<float>(c.per_expert_scale ? c.tokens * c.slots : 0)),
      weight_parts(
          arena.take<char>(std::int64_t{weight_gradient_shape(c).splits} * c.experts * c.dim * sum_bytes(c))),
      d_kept(arena.take_bytes(dropping_slots(c) * sum_bytes(c))) {}

template <class Layout>
static std::size_t layout_bytes(const GateConfig& config) {
  check_config(config);
  Arena arena(nullptr);
  Layout layout(arena, config);
  return arena.used();
}

std::size_t gate_saved_bytes(const GateConfig& config) { return layout_bytes<GateSaved>(config); }
std::size_t gate_forward_workspace_bytes(const GateConfig& config) {
  return layout_bytes<GateForwardWorkspace>(config);
}
std::size_t gate_backward_workspace_bytes(const GateConfig& config) {
  return layout_bytes<GateBackwardWorkspace>(config);
}

}  // namespace moeref::cuda
