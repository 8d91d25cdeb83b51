// The activations of the experts: one row of projections h in, one row out, and back.
#pragma once

#include <string>

#include "json_fields.hpp"

namespace example {

struct Activation {
  enum class Kind { swiglu, swigluoai, quick_geglu, geglu, relu2 };
  Kind kind = Kind::swiglu;
  float alpha = 1.702f;
  float limit = 0.0f;  // 0 = no clamps

  /// Throws NotSupported for a name that it does not know.
  static Activation of_experts(const JsonFields& config);
  static Activation of_mlp(const std::string& name, float swiglu_limit);

  bool gated() const { return kind != Kind::relu2; }
  /// Elements of h for `width` elements of the result.
  long columns(long width) const { return gated() ? 2 * width : width; }

  void forward(const float* h, long width, float* out) const;
  /// d_h from d_out.
  void backward(const float* h, long width, const float* d_out, float* d_h) const;

 private:
  long gate_column(long i) const { return kind == Kind::quick_geglu ? 2 * i : i; }
  long up_column(long i, long width) const {
    return kind == Kind::quick_geglu ? 2 * i + 1 : gated() ? width + i : i;
  }
  /// The value, and its derivatives by gate and up.
  float value(float gate, float up) const;
  void slopes(float gate, float up, float& by_gate, float& by_up) const;
};

float sigmoid(float x);

}  // namespace example
