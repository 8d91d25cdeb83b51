// The routing weights where experts are of limited capacity: 0 in the slots that are dropped, and with
// norm_after_dropping divided by the sum over those that are kept (SPEC.md 10); and back.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct KeptSlots {
  std::int64_t tokens;
  int slots, experts;
  const int* dispatched;  // [T, k], outside [0, E): dropped, or without an expert before
  const void* values;     // [T, k] in values_type: what the sum divides; null: weights are divided already
  DataType values_type;   // float32 or float64
  bool norm_at_most;      // what divides: see RoutingRule
  double norm_eps, route_scale;
};

struct KeptWeights {
  DataType scores;  // rounds a divided weight before its own type does
  void* weights;    // [T, k] in weights_type, or null
  DataType weights_type;
  float* weights_float;  // [T, k] or null
};
void weigh_kept_slots(const KeptSlots& kept, const KeptWeights& out, cudaStream_t stream);

/// d_values [T, k] in values_type from the cotangent d_weights [T, k] of the weights: that of the values; or
/// d_weights itself, where weights are divided already. 0 where a slot is dropped.
void kept_slots_backward(const KeptSlots& kept, const void* d_weights, DataType d_weights_type,
                         void* d_values, cudaStream_t stream);

}  // namespace moeref::cuda
