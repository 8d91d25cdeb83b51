// The CUDA implementation behind the common interface of the CPU reference and all ports.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "cuda_impl/adaptors/device_tensors.hpp"
#include "moeref/cuda/bootstrap.hpp"
#include "moeref/implementation.hpp"

namespace moeref::cuda {

/// The conventions (SPEC.md 10) that the kernels have.
inline constexpr auto kCudaConventions = std::to_array<std::string_view>({
    "norm_denominator",
    "norm_eps",
    "norm_at_top1",
    "group_score",
    "discarded_groups",
    "logit_scale",
    "logit_cap",
    "weight_format",
    "activation_format",
    "accumulator",
    "null_slots",
    "selection_scores",
    "sinkhorn_tolerance",
    "centred_bias_update",
    "aux_loss_factor",
    "per_expert_scale",
    "aux_loss_sequences",
    "aux_loss_counts",
    "aux_loss_accumulated",
    "batch_loss_coeff",
    "global_loss_coeff",
    "z_loss_coeff",
    "router_input_norm",
    "router_input_norm_eps",
    "router_jitter",
    "n_always_selected",
    "capacity_factor",
    "min_capacity",
    "expert_capacity",
    "capacity_order",
    "norm_after_dropping",
    "router_weight_on_input",
    "n_identity_experts",
    "clamp_after_activation",
    "geglu_erf",
    "silu",
    "gelu",
    "gelu_tanh",
    "relu",
    "situ",
    "situ_beta",
    "situ_linear_beta",
    "latent_norm",
    "latent_norm_eps",
    "expert_compute_dtype",
    "bias_update_rule",
    "bias_update_ema",
});

/// Computes on the current device, in the type of the call's activations (float32, bfloat16 or float16) with
/// fp32 sums; results in the types the kernels give. Nothing of the reference computes here: it lends the
/// types of calls and tensors, and the checks of inputs.
class CudaImplementation final : public Implementation {
 public:
  explicit CudaImplementation(const DeviceOptions& options = {}) : options_(options) {}

  std::string name() const override { return "cuda"; }
  std::optional<std::string> unsupported(const Call& call) const override;

  /// Throws InputError for inputs that no implementation could take, CudaError when the device fails or a
  /// kernel writes outside its arrays.
  NamedTensors run(const Call& call) override;

  /// Whether calls of the component with several ranks are made by as many; those of others by one for all.
  static bool runs_on_ranks(Component component);
  /// This rank's part of such a call, from its share, on device `rank` modulo the devices, together with
  /// `ranks`, which call it at the same time. Throws as run(), and GroupError.
  NamedTensors run_share(const Call& share, const std::shared_ptr<Bootstrap>& ranks);

 private:
  DeviceOptions options_;
};

}  // namespace moeref::cuda
