// Slots of experts that return their input (SPEC.md 10, n_identity_experts): no rows are copied or multiplied
// for them, what they add to a token's sum is its own row.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// Those of real tokens whose id is from `first` to `first + experts - 1`.
struct InputSlots {
  const void* rows = nullptr;                // [T, dim]: x, or in backward the cotangent of the output
  const int* ids = nullptr;                  // [T, slots]
  const float* weights = nullptr;            // [T, slots]
  const std::uint8_t* token_mask = nullptr;  // [T] or null
  int slots = 0, first = 0, experts = 0;     // 0 experts: no slot

#ifdef __CUDACC__
  __device__ bool has(std::int64_t token, int j) const {
    const int id = ids[token * slots + j];
    return id >= first && id < first + experts && (token_mask == nullptr || token_mask[token] != 0);
  }
#endif
};

/// out[t * slots + j] = x[t] . dy[t] for such slots, where `in.rows` is x; others are left as they are. x, dy
/// [tokens, dim]. Launches nothing where there are no such experts.
void input_slot_gradients(DataType dtype, const InputSlots& in, const void* dy, std::int64_t tokens, int dim,
                          float* out, cudaStream_t stream);

}  // namespace moeref::cuda
