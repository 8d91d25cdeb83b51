// The routing weights where experts are of limited capacity: 0 in the slots that are dropped, and with
// norm_after_dropping divided by the sum over those that are kept, then times their factors (SPEC.md 10); and
// back.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct KeptSlots {
  std::int64_t tokens;
  int slots, experts;
  const int* dispatched;         // [T, k], outside [0, E): dropped, or without an expert before
  DataType values_type;          // float32 or float64
  const void* values = nullptr;  // [T, k] what the sum divides; null: weights are divided already, and what
                                 // follows is not read
  bool norm_at_most = false;     // what divides: see RoutingRule
  double norm_eps = 0.0, route_scale = 1.0;
  const void* expert_scale = nullptr;  // [E] in parameter_type, or null
  DataType parameter_type = DataType::float32;
};

struct KeptWeights {
  DataType scores;  // rounds a divided weight before its own type does
  void* weights;    // [T, k] in weights_type, or null
  DataType weights_type;
  float* weights_float;  // [T, k] or null
};
void weigh_kept_slots(const KeptSlots& kept, const KeptWeights& out, cudaStream_t stream);

/// Both are 0 where a slot is dropped.
struct KeptGradients {
  void* values;        // [T, k] in values_type: that of KeptSlots::values, or the cotangent of the weights
                       // itself where these are null
  float* scale_terms;  // [T, k] that cotangent times the weights without the experts' factors, or null;
                       // written where there are values
};
/// From the cotangent d_weights [T, k] of the weights.
void kept_slots_backward(const KeptSlots& kept, const void* d_weights, DataType d_weights_type,
                         const KeptGradients& out, cudaStream_t stream);

}  // namespace moeref::cuda
