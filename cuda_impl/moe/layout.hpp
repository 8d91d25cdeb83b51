// What the layer's two passes share: argument checks, the configs of its parts, the layout of `saved` and of
// the workspaces.
#pragma once

#include "cuda_impl/linear/linear.hpp"
#include "cuda_impl/memory/arena.hpp"
#include "cuda_impl/norm/rms_norm.hpp"
#include "moeref/cuda/moe.hpp"

namespace moeref::cuda {

void check_config(const LayerConfig& config);
void check_groups(const LayerConfig& config, const LayerGroups& groups);

inline MLPConfig shared_config(const LayerConfig& c) {
  return {c.gate.tokens,         c.gate.dim, c.shared_inter_dim, c.shared_activation,
          c.shared_swiglu_limit, c.dtype(),  c.shared_situ_beta, c.shared_situ_linear_beta};
}
/// x to the experts' width, and back.
inline LinearShape fc1_shape(const LayerConfig& c) {
  return {c.gate.tokens, c.gate.dim, c.experts.dim, c.dtype()};
}
inline LinearShape fc2_shape(const LayerConfig& c) {
  return {c.gate.tokens, c.experts.dim, c.gate.dim, c.dtype()};
}

inline bool norms_latent(const LayerConfig& c) { return c.latent_norm != LatentNorm::none; }
/// Rows x [T, L] that latent_norm is given.
inline NormedRows latent_rows(const LayerConfig& c, const void* x, const void* weight) {
  return {c.gate.tokens, c.experts.dim, x,         nullptr, weight,
          c.dtype(),     c.dtype(),     c.dtype(), true,    c.latent_norm_eps};
}

/// Of the routed experts' input and output.
inline std::int64_t experts_elements(const LayerConfig& c) { return c.experts.tokens * c.experts.dim; }

inline bool is_spread(const LayerConfig& c) { return c.expert_ranks > 1; }

/// What one part of the layer gives to another. Null pointers for parts that the config leaves out.
struct LayerValues {
  std::uint8_t* mask;  // [T]
  int* ids;            // [T, k]
  float* weights;      // [T, k]
  int* dispatched;     // [T, k], those that experts get: `ids` where none is dropped
  // [T, L]: what fc1 gives and what the experts get, what they give and what fc2 gets. Both of a pair are one
  // array unless latent_norm is between them.
  void *projected = nullptr, *latent = nullptr, *routed = nullptr, *returned = nullptr;
  void* converted = nullptr;      // [T, L] in the experts' type, where that is not the layer's
  float* shared_scale = nullptr;  // [T] sigmoid(x w_sg^T)
  LayerValues(Arena& arena, const LayerConfig& config);
};

struct LayerSaved {
  LayerValues values;
  void *gate, *experts, *shared = nullptr;  // as their own functions lay them out
  LayerSaved(Arena& arena, const LayerConfig& config);
};

/// The parts run one after another on one stream, so that they share one workspace.
struct LayerForwardWorkspace {
  void *part, *blas;
  void* converted_y = nullptr;  // [T, L] in the experts' type
  LayerValues values;           // where nothing is saved
  GateStatistics statistics = {};
  LayerForwardWorkspace(Arena& arena, const LayerConfig& config);
};
struct LayerBackwardWorkspace {
  void *part, *blas;
  float* d_weights;                                       // [T, k]
  void *d_routed = nullptr, *d_latent = nullptr;          // [T, L]
  void* d_normed = nullptr;                               // [T, L], of what latent_norm gives
  float *inverse_roots = nullptr, *norm_parts = nullptr;  // [T], [norm_weight_parts(T), L]
  void *converted_dy = nullptr, *converted_dx = nullptr;  // [T, L] in the experts' type
  void* sums = nullptr;                                   // of column_sum
  float* d_scale = nullptr;                               // [T]
  LayerBackwardWorkspace(Arena& arena, const LayerConfig& config);
};

}  // namespace moeref::cuda
