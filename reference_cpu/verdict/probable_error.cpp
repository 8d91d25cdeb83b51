#include "reference_cpu/verdict/probable_error.hpp"

#include <algorithm>
#include <cmath>

#include "moeref/config.hpp"

namespace moeref {
namespace {

/// The number of terms of the shortest last sum of a result of an MoE layer or one of its parts; 1 for
/// others.
std::int64_t last_sum(const Call& call, const MoEConfig& c, std::string_view tensor) {
  if (tensor == "stages/logits") return c.dim;
  if (tensor == "stages/up_projection") return c.expert_dim();
  if (tensor == "stages/down_projection") return c.moe_inter_dim;
  const bool gradient = tensor == "grads/x";
  if (!gradient && tensor != "outputs/y") return 1;
  if (call.component == Component::gate) return gradient ? c.n_routed_experts : 1;
  std::int64_t shortest = c.moe_inter_dim;
  if (call.component == Component::experts) return shortest;
  // A layer adds the results of its parts.
  if (gradient) shortest = std::min(shortest, c.n_routed_experts);
  if (c.n_shared_experts > 0) shortest = std::min(shortest, c.shared_dim());
  return std::min(shortest, c.expert_dim());
}

}  // namespace

double probable_share(const Call& call, std::string_view tensor) {
  // Rounded operands, which a narrower type makes, are the most of such a bound.
  if (parse_call_options(call.options).float32_products != Float32Products::float32) return 1.0;
  const Tensor* x = find(call.tensors, "inputs/x");
  if (!x || x->dtype() != DType::float32) return 1.0;
  std::int64_t terms = 1;
  DType dtype = DType::float32;
  switch (call.component) {
    case Component::mlp: {
      const MLPConfig c = parse_mlp_config(call.config);
      dtype = c.dtype;
      if (tensor == "outputs/y" || tensor == "grads/x") terms = c.inter_dim;
      break;
    }
    case Component::gate:
    case Component::experts:
    case Component::moe: {
      const MoEConfig c = parse_moe_config(call.config);
      dtype = c.dtype;
      if (parse_call_options(call.options).gate_precision.value_or(dtype) != dtype) return 1.0;
      if (has_routed_experts(call.component)) dtype = c.expert_compute_dtype.value_or(dtype);
      if (c.quantises_activations()) return 1.0;  // a code that may move is the most of such a bound
      terms = last_sum(call, c, tensor);
      break;
    }
    case Component::aux_loss:
    case Component::bias_update:
    case Component::fake_balanced_gate:
    case Component::init:
    case Component::metrics:
      break;
  }
  return dtype == DType::float32 ? 1.0 / std::sqrt(static_cast<double>(terms)) : 1.0;
}

}  // namespace moeref
