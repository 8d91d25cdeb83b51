// The expert activations of SPEC.md 5, and their parameters.
#pragma once

namespace moeref::cuda {

/// In the order of the call's activations; last swiglu with clamp_after_activation.
enum class Activation {
  swiglu,
  swigluoai,
  quick_geglu,
  geglu,
  relu2,
  geglu_erf,
  silu,
  gelu,
  gelu_tanh,
  relu,
  situ,
  swiglu_clamped_after
};
constexpr int kActivationCount = 12;
/// The documented ones, the first: all products have them. The others (SPEC.md 10) are portable's alone.
constexpr int kDocumentedActivationCount = 5;
constexpr bool is_documented(Activation a) { return static_cast<int>(a) < kDocumentedActivationCount; }

/// `limit` is swiglu_limit for swiglu and swiglu_clamped_after (0: no clamp) and activation_limit for
/// swigluoai and quick_geglu (swigluoai clamps only when it is above 0, quick_geglu always); `alpha` is
/// activation_alpha. For situ they are situ_beta and situ_linear_beta (0: the up half is not bounded).
struct ActivationParameters {
  float alpha = 1.702f;
  float limit = 0.0f;
};

/// Whether it takes a gate and an up column per inner column, and not an up column alone.
bool is_gated(Activation activation);
/// Whether the dense MLP computes it; the routed experts compute all.
bool is_of_mlp(Activation activation);

}  // namespace moeref::cuda
