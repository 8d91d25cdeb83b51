// What backward cannot do without, to the byte and beside x: pre-activations and routing metadata as the
// components' headers list them. More than that in `saved` is padding, or something that should not be kept.
#pragma once

#include "moeref/cuda/moe.hpp"

namespace moeref::cuda::bench {

/// Logits [T, E] in the type they are computed in, and the auxiliary loss's gradient [E].
inline double least_saved(const GateConfig& c) {
  const double element = static_cast<double>(bytes_of(c.compute_type()));
  return static_cast<double>(c.tokens) * c.experts * element + (c.has_load_loss() ? 4.0 * c.experts : 0.0);
}

/// H [T k, up_width] and 16 bytes per row of permutation.
inline double least_saved(const ExpertsConfig& c) {
  const double rows = static_cast<double>(c.tokens) * c.slots;
  return rows * (c.up_width() * static_cast<double>(bytes_of(c.dtype)) + 16.0);
}

/// gate(x) and up(x) [T, I].
inline double least_saved(const MLPConfig& c) {
  return static_cast<double>(c.tokens) * c.inter_dim * (is_gated(c.activation) ? 2.0 : 1.0) *
         static_cast<double>(bytes_of(c.dtype));
}

/// The parts', ids and weights, and what a latent size and a shared gate need; no mask without padding.
inline double least_saved(const LayerConfig& c) {
  const double tokens = static_cast<double>(c.gate.tokens);
  double bytes = least_saved(c.experts) + 8.0 * tokens * c.gate.slots;
  if (!c.fake_balanced_gate) bytes += least_saved(c.gate);
  const double latent = (c.latent ? 2.0 : 0.0) + (c.latent_norm != LatentNorm::none ? 1.0 : 0.0);
  bytes += latent * tokens * c.experts.dim * static_cast<double>(bytes_of(c.dtype()));
  if (c.shared_inter_dim > 0)
    bytes += least_saved(MLPConfig{c.gate.tokens, c.gate.dim, c.shared_inter_dim, c.shared_activation,
                                   c.shared_swiglu_limit, c.dtype()});
  if (c.shared_gate) bytes += 4.0 * tokens;
  return bytes;
}

}  // namespace moeref::cuda::bench
