// The slots of each expert one after another, as the sort by expert lays them out in the order of their
// tokens; then one block per expert finds the C that come first in the rule's order: the C-th largest key,
// eight bits at a time from a histogram, and of the slots that have it the first ones. Integers alone are
// counted, so that no result depends on the order of atomics. An expert within its capacity costs its block
// two loads, so that the sort dominates (permutation/sort_by_expert.cu); a full one's keys are read five
// times at most under CapacityOrder::weight, 8 bytes a slot from L2 each time.
#include "moeref/cuda/capacity.hpp"

#include <string>

#include "cuda_impl/memory/arena.hpp"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/token_blocks/order_key.cuh"
#include "cuda_impl/token_blocks/warp_reduce.cuh"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {
namespace {

constexpr int kThreads = 256, kDigit = 8;
constexpr int kTileRows = 128;  // of the sort's row tiles, which nothing here uses

PermutationShape sorted(const CapacityShape& s) { return {s.tokens, s.slots, s.experts, kTileRows}; }

struct CapacityWorkspace {
  void *sort, *permutation;
  CapacityWorkspace(Arena& arena, const CapacityShape& s)
      : sort(arena.take_bytes(sort_workspace_bytes(sorted(s)))),
        permutation(arena.take_bytes(permutation_bytes(sorted(s)))) {}
};

/// Rows of one expert and their keys, the largest of which come first.
struct KeyedRows {
  CapacityOrder order;
  int slots;
  const int* row_slot;
  const float* row_weight;
  __device__ unsigned key(int row) const {
    if (order == CapacityOrder::weight) return order_key(row_weight[row]);
    return order == CapacityOrder::choice ? static_cast<unsigned>(slots - 1 - row_slot[row] % slots) : 0u;
  }
  /// Bits that keys may have, in whole digits.
  __device__ int bits() const {
    return order == CapacityOrder::weight ? 32 : order == CapacityOrder::choice ? kDigit : 0;
  }
};

/// The `wanted`-th largest key of the rows, and how many rows that have it are among the wanted. All threads
/// of the block get both.
struct Threshold {
  unsigned key;
  int wanted;
};
__device__ Threshold find_threshold(const KeyedRows& rows, int first, int last, int wanted) {
  __shared__ int counts[1 << kDigit];
  __shared__ Threshold found;
  if (threadIdx.x == 0) found = {0u, wanted};
  for (int shift = rows.bits() - kDigit; shift >= 0; shift -= kDigit) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    const unsigned above = found.key;  // the digits that are known, in their places
    for (int row = first + threadIdx.x; row < last; row += kThreads) {
      const unsigned key = rows.key(row);
      if ((std::uint64_t{key} ^ above) >> (shift + kDigit) == 0)
        atomicAdd(&counts[key >> shift & ((1u << kDigit) - 1)], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = (1 << kDigit) - 1;
      while (counts[digit] < found.wanted) found.wanted -= counts[digit--];
      found.key |= static_cast<unsigned>(digit) << shift;
    }
    __syncthreads();
  }
  __syncthreads();
  return found;
}

__global__ void __launch_bounds__(kThreads)
    drop_slots(const KeyedRows rows, const int* offsets, int capacity, int null_id, int* dispatched) {
  static_assert(kThreads == 1 << kDigit, "a thread for each count");
  wait_for_earlier_kernels();
  __shared__ int in_warp[kThreads / 32];
  const int first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
  if (last - first <= capacity) return;
  const Threshold threshold = find_threshold(rows, first, last, capacity);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int equal_before = 0;
  for (int begin = first; begin < last; begin += kThreads) {
    const int row = begin + threadIdx.x;
    const unsigned key = row < last ? rows.key(row) : 0u;
    const bool equal = row < last && key == threshold.key;
    const unsigned equals = __ballot_sync(kAllLanes, equal);
    if (lane == 0) in_warp[warp] = __popc(equals);
    __syncthreads();
    int before = equal_before + __popc(equals & ((1u << lane) - 1));
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) before += in_warp[w];
      equal_before += in_warp[w];
    }
    const bool kept = key > threshold.key || (equal && before < threshold.wanted);
    if (row < last && !kept) dispatched[rows.row_slot[row]] = null_id;
    __syncthreads();  // in_warp is written again
  }
}

}  // namespace

std::size_t capacity_workspace_bytes(const CapacityShape& s) { return bytes_taken<CapacityWorkspace>(s); }

void limit_capacity(const CapacityShape& s, const CapacityRule& rule, const int* ids, const float* weights,
                    const std::uint8_t* token_mask, int null_id, int* dispatched, void* workspace,
                    cudaStream_t stream) {
  if (s.slots > 1 << kDigit)
    throw ArgumentError("slots is " + std::to_string(s.slots) + ": want 256 at most");
  const std::int64_t capacity = rule.capacity(s.tokens, s.slots, s.experts), all = s.tokens * s.slots;
  if (capacity < 0) throw ArgumentError("capacity is " + std::to_string(capacity) + ": want 0 or more");
  check(cudaMemcpyAsync(dispatched, ids, static_cast<std::size_t>(all) * sizeof(int),
                        cudaMemcpyDeviceToDevice, stream),
        "cudaMemcpyAsync");
  if (all == 0 || capacity >= all) return;
  const auto work = laid_out<CapacityWorkspace>(workspace, s);
  const Permutation rows = carve_permutation(sorted(s), work.permutation);
  sort_by_expert(sorted(s), ids, weights, token_mask, rows, work.sort, stream);
  launch_overlapped<drop_slots>("limit_capacity", {static_cast<unsigned>(s.experts), kThreads, 0, stream},
                                KeyedRows{rule.order, s.slots, rows.row_slot, rows.row_weight}, rows.offsets,
                                static_cast<int>(capacity), null_id, dispatched);
}

}  // namespace moeref::cuda
