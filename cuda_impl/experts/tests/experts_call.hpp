// Descriptors of calls of experts.
#pragma once

#include <nlohmann/json.hpp>

namespace moeref::cuda::test {

/// Six experts of 3 slots, swiglu.
inline nlohmann::json experts_call(std::int64_t tokens, int dim, int inter_dim, const char* dtype) {
  return {{"case", "experts"},
          {"component", "experts"},
          {"tokens", {tokens}},
          {"config",
           {{"n_routed_experts", 6},
            {"n_shared_experts", 0},
            {"n_activated_experts", 3},
            {"n_expert_groups", 1},
            {"n_limited_groups", 1},
            {"train_gate", true},
            {"gate_bias_update_factor", 0.0},
            {"aux_loss_coeff", 0.0},
            {"score_func", "softmax"},
            {"route_scale", 1.0},
            {"dim", dim},
            {"inter_dim", 8},
            {"moe_inter_dim", inter_dim},
            {"norm_topk_prob", false},
            {"dtype", dtype}}}};
}

}  // namespace moeref::cuda::test
