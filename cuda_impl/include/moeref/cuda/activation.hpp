// The expert activations of SPEC.md 5, and their parameters.
#pragma once

namespace moeref::cuda {

enum class Activation { swiglu, swigluoai, quick_geglu, geglu, relu2 };
constexpr int kActivationCount = 5;

/// `limit` is swiglu_limit for swiglu (0: no clamp) and activation_limit for swigluoai and quick_geglu
/// (swigluoai clamps only when it is above 0, quick_geglu always); `alpha` is activation_alpha.
struct ActivationParameters {
  float alpha = 1.702f;
  float limit = 0.0f;
};

/// All but relu2 take a gate and an up column per inner column.
constexpr bool is_gated(Activation a) { return a != Activation::relu2; }

}  // namespace moeref::cuda
