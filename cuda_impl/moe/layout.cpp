#include "cuda_impl/moe/layout.hpp"

#include <algorithm>
#include <string>

#include "cuda_impl/expert_parallel/layout.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

std::size_t slots(const LayerConfig& c) {
  return static_cast<std::size_t>(c.experts.tokens) * static_cast<std::size_t>(c.experts.slots);
}
std::size_t latent_bytes(const LayerConfig& c) {
  return static_cast<std::size_t>(c.experts.tokens) * static_cast<std::size_t>(c.experts.dim) *
         bytes_of(c.dtype());
}
std::size_t converted_bytes(const LayerConfig& c) {
  if (!c.converts()) return 0;
  return static_cast<std::size_t>(experts_elements(c)) * bytes_of(c.experts.dtype);
}
bool shares(const LayerConfig& c) { return c.shared_inter_dim > 0; }

void same(const char* field, std::int64_t gate, std::int64_t experts) {
  if (gate != experts)
    throw ArgumentError(std::string(field) + " is " + std::to_string(gate) + " in the gate and " +
                        std::to_string(experts) + " in the experts: want the same");
}

}  // namespace

void check_config(const LayerConfig& c) {
  same("tokens", c.gate.tokens, c.experts.tokens);
  same("experts", c.gate.experts, c.experts.experts + c.experts.identity_experts);
  same("slots", c.gate.slots, c.experts.slots);
  if (!c.latent) same("dim", c.gate.dim, c.experts.dim);
  check_matrix_type(c.dtype(), "the gate's x_type");
  if (c.gate.dim < 1) throw ArgumentError("dim is " + std::to_string(c.gate.dim) + ": want 1 or more");
  if (c.shared_inter_dim < 0)
    throw ArgumentError("shared_inter_dim is " + std::to_string(c.shared_inter_dim) + ": want 0 or more");
  if (norms_latent(c) && !c.latent) throw ArgumentError("latent_norm is set without latent projections");
  if (norms_latent(c) && !(c.latent_norm_eps > 0.0))
    throw ArgumentError("latent_norm_eps is " + std::to_string(c.latent_norm_eps) + ": want more than 0");
  if (is_spread(c)) check_config(c.expert_parallel());
  if (c.shared_gate && !shares(c)) throw ArgumentError("shared_gate is set without shared experts");
}

void check_groups(const LayerConfig& c, const LayerGroups& groups) {
  if (is_spread(c) && !(groups.expert && groups.windows.kept && groups.windows.transient))
    throw ArgumentError("expert_ranks is " + std::to_string(c.expert_ranks) +
                        ": want a group of experts and its windows");
}

LayerValues::LayerValues(Arena& arena, const LayerConfig& c)
    : mask(arena.take<std::uint8_t>(static_cast<std::size_t>(c.gate.tokens))),
      ids(arena.take<int>(slots(c))),
      weights(arena.take<float>(slots(c))),
      dispatched(c.drops_slots() ? arena.take<int>(slots(c)) : ids) {
  if (c.latent) {
    projected = latent = arena.take_bytes(latent_bytes(c));
    routed = returned = arena.take_bytes(latent_bytes(c));
  }
  if (norms_latent(c))
    (c.latent_norm == LatentNorm::after_fc1 ? latent : returned) = arena.take_bytes(latent_bytes(c));
  if (c.converts()) converted = arena.take_bytes(converted_bytes(c));
  if (c.shared_gate) shared_scale = arena.take<float>(static_cast<std::size_t>(c.gate.tokens));
}

LayerSaved::LayerSaved(Arena& arena, const LayerConfig& c)
    : values(arena, c),
      gate(arena.take_bytes(c.fake_balanced_gate ? 0 : gate_saved_bytes(c.gate))),
      experts(arena.take_bytes(is_spread(c) ? saved_bytes(c.expert_parallel()) : saved_bytes(c.experts))) {
  if (shares(c)) shared = arena.take_bytes(mlp_saved_bytes(shared_config(c)));
}

LayerForwardWorkspace::LayerForwardWorkspace(Arena& arena, const LayerConfig& c)
    : part(arena.take_bytes(std::max(
          {is_spread(c) ? forward_workspace_bytes(c.expert_parallel()) : forward_workspace_bytes(c.experts),
           c.fake_balanced_gate ? std::size_t{0} : gate_forward_workspace_bytes(c.gate),
           shares(c) ? mlp_forward_workspace_bytes(shared_config(c)) : std::size_t{0}}))),
      blas(arena.take_bytes(c.latent ? Blas::workspace_bytes : 0)),
      values(arena, c) {
  if (c.converts()) converted_y = arena.take_bytes(converted_bytes(c));
  if (c.fake_balanced_gate || !c.gate.has_loss()) return;
  statistics.counts = arena.take<std::int64_t>(GateStatistics::count_of_counts(c.gate));
  statistics.sums = arena.take<double>(GateStatistics::count_of_sums(c.gate));
}

LayerBackwardWorkspace::LayerBackwardWorkspace(Arena& arena, const LayerConfig& c)
    : part(arena.take_bytes(std::max(
          {is_spread(c) ? backward_workspace_bytes(c.expert_parallel()) : backward_workspace_bytes(c.experts),
           c.fake_balanced_gate ? std::size_t{0} : gate_backward_workspace_bytes(c.gate),
           shares(c) ? mlp_backward_workspace_bytes(shared_config(c)) : std::size_t{0}}))),
      blas(arena.take_bytes(c.latent ? Blas::workspace_bytes : 0)),
      d_weights(arena.take<float>(slots(c))) {
  if (c.latent) d_routed = arena.take_bytes(latent_bytes(c)), d_latent = arena.take_bytes(latent_bytes(c));
  if (norms_latent(c)) {
    const std::int64_t rows = c.gate.tokens;
    d_normed = arena.take_bytes(latent_bytes(c));
    inverse_roots = arena.take<float>(static_cast<std::size_t>(rows));
    norm_parts = arena.take<float>(static_cast<std::size_t>(norm_weight_parts(rows)) *
                                   static_cast<std::size_t>(c.experts.dim));
  }
  if (c.converts())
    converted_dy = arena.take_bytes(converted_bytes(c)), converted_dx = arena.take_bytes(converted_bytes(c));
  if (c.latent || c.shared_gate)
    sums = arena.take_bytes(column_sum_workspace_bytes(std::max(c.gate.dim, c.experts.dim)));
  if (c.shared_gate) d_scale = arena.take<float>(static_cast<std::size_t>(c.gate.tokens));
}

template <class Layout>
static std::size_t bytes(const LayerConfig& config) {
  check_config(config);
  return bytes_taken<Layout>(config);
}

std::size_t layer_saved_bytes(const LayerConfig& config) { return bytes<LayerSaved>(config); }
std::size_t layer_forward_workspace_bytes(const LayerConfig& config) {
  return bytes<LayerForwardWorkspace>(config);
}
std::size_t layer_backward_workspace_bytes(const LayerConfig& config) {
  return bytes<LayerBackwardWorkspace>(config);
}

}  // namespace moeref::cuda
