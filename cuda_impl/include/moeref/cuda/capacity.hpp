// Experts of limited capacity (SPEC.md 10): which of its slots each expert takes, and which are dropped.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace moeref::cuda {

/// By ascending token; by ascending place among a token's slots, and of one place by token; or by descending
/// weight, NaN first, and of one weight by token. In the order of the call's capacity_order.
enum class CapacityOrder { token, choice, weight };

/// Under the names of the config's fields.
struct CapacityRule {
  std::int64_t expert_capacity = 0;  // 0: what the factor gives
  double capacity_factor = 0.0;      // of an even share of the slots; 0: none is dropped
  std::int64_t min_capacity = 0;     // of what the factor gives
  CapacityOrder order = CapacityOrder::token;

  bool drops_slots() const { return capacity_factor > 0.0 || expert_capacity > 0; }
  /// C, the slots that an expert takes; more than all of them means all.
  std::int64_t capacity(std::int64_t tokens, int slots, int experts) const {
    if (expert_capacity > 0) return expert_capacity;
    const auto all = static_cast<double>(tokens * slots);
    const double share = std::ceil(all / experts * capacity_factor);
    return std::max(static_cast<std::int64_t>(std::min(share, all)), min_capacity);
  }
};

struct CapacityShape {
  std::int64_t tokens;  // T, of one rank
  int experts;          // E, 1 to 1024
  int slots;            // k, 1 to 256
};

std::size_t capacity_workspace_bytes(const CapacityShape& shape);

/// dispatched [T, k] = ids [T, k], but `null_id` for slots past the capacity of their expert. Slots of masked
/// tokens (token_mask [T], 1 = real, or null: all are) and ids outside [0, E) stay as they are and take no
/// room. `weights` [T, k] order slots under CapacityOrder::weight. The result depends on the inputs alone;
/// nothing synchronises, all may be captured in a CUDA graph. `dispatched` shares no bytes with the inputs.
/// Throws ArgumentError for a shape or rule out of range, CudaError when a launch fails.
void limit_capacity(const CapacityShape& shape, const CapacityRule& rule, const int* ids,
                    const float* weights, const std::uint8_t* token_mask, int null_id, int* dispatched,
                    void* workspace, cudaStream_t stream);

}  // namespace moeref::cuda
