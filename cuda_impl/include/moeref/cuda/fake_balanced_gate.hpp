// The gate that spreads tokens evenly, or at random from a seed in its input, for performance runs (SPEC.md
// 4). Asynchronous and capturable.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct FakeGateConfig {
  std::int64_t tokens;  // T, at least 0; tokens * slots < 2^40
  int dim;              // D, at least 1
  int experts;          // E, 1 to 1024
  int slots;            // k, 1 or more; with noise at most min(experts - skip, 64)
  int skip = 0;         // experts below are never chosen; less than experts. A = experts - skip
  double noise = 0.0;   // 0 to 1
  DataType x_type = DataType::bfloat16;
};

/// Draws made elsewhere, for instance by the documented system's generator: uniforms r [T, k] for the
/// weights, normals b [A], uniforms u [T, A].
struct FakeGateDraws {
  const float *weights = nullptr, *bias = nullptr, *scores = nullptr;
};

/// ids [T, k], in descending order of their random scores with noise; weights [T, k] in x_type and the same
/// numbers as floats (either may be null). x [T, D] is read with noise and no draws only: its first four
/// values are the seed (SPEC.md 4; a sum that is not finite counts as 0).
///
/// Our own stream is counter based (Philox4x32-10, counter_generator.hpp of the reference), every draw a
/// function of seed and index: r[t, j] is uniform t k + j of "fake_balanced_gate/weights", b[i] normal i of
/// ".../bias", u[t, i] uniform t A + i of ".../scores", each rounded to fp32. Scores u + (b n) 0.1 are fp32
/// numbers, each operation rounded, so ids do not depend on the device; of equal scores the lowest id comes
/// first.
void fake_balanced_gate(const FakeGateConfig& config, const void* x, const FakeGateDraws& draws, int* ids,
                        void* weights, float* weights_float, cudaStream_t stream);

}  // namespace moeref::cuda
