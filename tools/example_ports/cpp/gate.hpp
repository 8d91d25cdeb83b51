// The gate: which experts a token goes to, with which weights, and the auxiliary loss.
#pragma once

#include <string>
#include <vector>

#include "call.hpp"

namespace example {

struct GateConfig {
  long experts, k, groups, limited_groups;
  bool softmax, softmax_first, normalise, biased_weights, float_weights, training_loss;
  float route_scale, aux_coefficient;

  /// Throws NotSupported for what this gate does not have.
  explicit GateConfig(const Call& call);
};

/// Everything that the backward pass and the experts need.
struct Routing {
  Matrix logits, plain, scores;  ///< scores before and after normalisation
  Matrix weights;                ///< [tokens, k]
  std::vector<std::int64_t> ids, load;
  std::vector<float> loss_slope;  ///< d aux / d scores of a real token, by expert
  float aux_loss = 0.0f;
};

/// `prefix` is "" in gate and "gate." in moe.
Routing route(const Call& call, const GateConfig& config, const std::string& prefix, const Matrix& x,
              const std::vector<bool>& real);

/// Gradients of the gate's parameters are written; returns that of x.
Matrix route_backward(const Call& call, const GateConfig& config, const std::string& prefix, const Matrix& x,
                      const std::vector<bool>& real, const Routing& routing, const Matrix& d_weights);

/// outputs/weights, indices, expert_load, aux_loss and the stages.
void write_routing(const Call& call, const Routing& routing);

}  // namespace example
