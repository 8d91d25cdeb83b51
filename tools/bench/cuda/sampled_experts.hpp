// Timed passes of the routed experts held against the reference on a few of their tokens: a token's row of
// the output and of the gradients follows from its own experts alone.
#pragma once

#include <vector>

#include "moeref/cuda/dtype.hpp"
#include "tools/bench/cuda/program.hpp"

namespace moeref::cuda::bench {

/// Arrays on the device but `ids`; as in moeref/cuda/experts.hpp, without biases.
struct TimedExperts {
  const Shape& shape;
  DataType dtype;
  const std::vector<int>& ids;  // [T, k]
  const float* weights;         // [T, k]
  const void *x, *d_output, *gate_and_up, *down;
  const void *output, *d_x;
  const float* d_weights;
};

/// The largest |value - reference| / bound over sampled rows of output, of the gradient of x and of that of
/// the routing weights. Throws CudaError where it is above 1, or no number.
double largest_ratio(const TimedExperts& timed);

}  // namespace moeref::cuda::bench
