// The matrix products of a component: its flops, and what an equal dense layer would compute.
//
// The routed experts count as one dense product over all T k rows. A gate of its own counts its logits; in a
// layer the router does not count, nor does padding (PERFORMANCE: 6 T k D I flops forward, 12 backward).
#pragma once

#include <vector>

#include "tools/bench/measurement.hpp"

namespace moeref::bench {

/// [rows, inner] times [inner, columns].
struct Product {
  std::int64_t rows, inner, columns;
  double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(inner) * static_cast<double>(columns);
  }
};

/// Does the layer have such a part? Of gate, experts, mlp and moe; no other component has a benchmark.
inline bool has_part(Component component, const Layer& layer) {
  switch (component) {
    case Component::gate:
      return !layer.options.fake_balanced_gate;
    case Component::mlp:
      return layer.config.n_shared_experts > 0;
    case Component::experts:
    case Component::moe:
      return true;
    default:
      return false;
  }
}

/// Those of the forward pass. The backward pass has two of the same size for each.
inline std::vector<Product> forward_products(Component component, const Layer& layer) {
  const MoEConfig& c = layer.config;
  const std::int64_t tokens = layer.tokens, rows = tokens * c.n_activated_experts;
  std::vector<Product> out;
  if (component == Component::gate) out.push_back({tokens, c.dim, c.n_routed_experts});
  if (has_routed_experts(component)) {
    out.push_back({rows, c.expert_dim(), c.up_dim()});
    out.push_back({rows, c.moe_inter_dim, c.expert_dim()});
  }
  if (component == Component::moe && c.moe_latent_size) {
    out.push_back({tokens, c.dim, *c.moe_latent_size});
    out.push_back({tokens, *c.moe_latent_size, c.dim});
  }
  if (component == Component::mlp || (component == Component::moe && c.n_shared_experts > 0)) {
    const MLPConfig mlp = shared_experts_config(c);
    const bool gated = facts(mlp.activation).gated;
    out.push_back({tokens, mlp.dim, gated ? 2 * mlp.inter_dim : mlp.inter_dim});
    out.push_back({tokens, mlp.inter_dim, mlp.dim});
  }
  return out;
}

inline double forward_flops(Component component, const Layer& layer) {
  double sum = 0.0;
  for (const Product& product : forward_products(component, layer)) sum += product.flops();
  return sum;
}

}  // namespace moeref::bench
