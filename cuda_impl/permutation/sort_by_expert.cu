// Stable counting sort of (token, slot) pairs by expert, and the row tiles of the grouped products.
//
// Three launches. count_segments: one warp per segment of 256 slots counts its experts. scan_segments: one
// block per expert turns the counts of its column into exclusive prefixes and writes the expert's total.
// scatter: each block scans the totals (offsets), then each warp walks its segment 32 slots at a time; a
// slot's rank is its segment's prefix + the slots of the same expert before it, found with __match_any_sync.
// Integer counts only: no result depends on the order of atomics. Floor: about 30 bytes a slot, under 2 us at
// 131072 slots; latency of three launches dominates.
#include <algorithm>
#include <string>

#include "moeref/cuda/error.hpp"
#include "moeref/cuda/permutation.hpp"
#include "permutation/tile_split.hpp"

namespace moeref::cuda {
namespace {

constexpr int kSegment = 256;
constexpr int kWarps = 8;
constexpr int kMaxExperts = 1024;

std::size_t align256(std::size_t n) { return (n + 255) / 256 * 256; }
std::int64_t rows_of(const PermutationShape& s) { return s.tokens * s.slots; }
int segments_of(const PermutationShape& s) {
  return static_cast<int>((rows_of(s) + kSegment - 1) / kSegment);
}
std::int64_t tiles_of(const PermutationShape& s) { return rows_of(s) / 16 + s.experts + 1; }

__device__ int expert_of(const int* ids, const std::uint8_t* mask, int slot, int total, int slots,
                         int experts) {
  if (slot >= total) return -1;
  const int id = ids[slot];
  if (id < 0 || id >= experts) return -1;
  return mask == nullptr || mask[slot / slots] ? id : -1;
}

__global__ void count_segments(const int* ids, const std::uint8_t* mask, int total, int slots, int experts,
                               int segments, int* counts) {
  extern __shared__ int histogram[];
  for (int i = threadIdx.x; i < kWarps * experts; i += blockDim.x) histogram[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = blockIdx.x * kWarps + warp;
  if (segment < segments) {
    for (int i = lane; i < kSegment; i += 32) {
      const int e = expert_of(ids, mask, segment * kSegment + i, total, slots, experts);
      if (e >= 0) atomicAdd(&histogram[warp * experts + e], 1);
    }
    __syncwarp();
    for (int e = lane; e < experts; e += 32) counts[segment * experts + e] = histogram[warp * experts + e];
  }
}

// Inclusive scan over a block of 256 threads.
__device__ int block_scan(int value, int* warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int d = 1; d < 32; d *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, value, d);
    if (lane >= d) value += other;
  }
  if (lane == 31) warp_sums[warp] = value;
  __syncthreads();
  for (int w = 0; w < warp; ++w) value += warp_sums[w];
  __syncthreads();
  return value;
}

__global__ void scan_segments(int* counts, int segments, int experts, int* totals) {
  __shared__ int warp_sums[8];
  __shared__ int carry;
  if (threadIdx.x == 0) carry = 0;
  __syncthreads();
  for (int base = 0; base < segments; base += 256) {
    const int s = base + threadIdx.x;
    const int count = s < segments ? counts[s * experts + blockIdx.x] : 0;
    const int inclusive = block_scan(count, warp_sums);
    const int before = carry;
    if (s < segments) counts[s * experts + blockIdx.x] = before + inclusive - count;
    __syncthreads();
    if (threadIdx.x == 255) carry = before + inclusive;
    __syncthreads();
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

// Exclusive scan of f(e) over the experts into out[0..experts], by a block of 256 threads.
template <class F>
__device__ void scan_experts(int experts, int* out, int* warp_sums, F f) {
  int carry = 0;
  for (int base = 0; base < experts; base += 256) {
    const int e = base + threadIdx.x;
    const int inclusive = block_scan(e < experts ? f(e) : 0, warp_sums) + carry;
    if (e < experts) out[e + 1] = inclusive;
    __syncthreads();
    carry = out[min(base + 256, experts)];
  }
  if (threadIdx.x == 0) out[0] = 0;
  __syncthreads();
}

__global__ void scatter(const int* ids, const float* weights, const std::uint8_t* mask, int total, int slots,
                        int experts, int segments, int tile_rows, const int* prefixes, const int* totals,
                        Permutation out) {
  extern __shared__ int shared[];
  __shared__ int warp_sums[8];
  int* offsets = shared;             // [experts + 1]
  int* next = shared + experts + 1;  // [kWarps][experts]
  scan_experts(experts, offsets, warp_sums, [&](int e) { return totals[e]; });
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = blockIdx.x * kWarps + warp;
  if (segment < segments) {
    int* mine = next + warp * experts;
    for (int e = lane; e < experts; e += 32) mine[e] = offsets[e] + prefixes[segment * experts + e];
    __syncwarp();
    for (int i = lane; i < kSegment; i += 32) {
      const int slot = segment * kSegment + i;
      const int e = expert_of(ids, mask, slot, total, slots, experts);
      const unsigned same = __match_any_sync(0xffffffffu, e);
      int row = -1;
      if (e >= 0) row = mine[e] + __popc(same & ((1u << lane) - 1));
      __syncwarp();
      if (e >= 0 && (same >> lane) == 1u) mine[e] = row + 1;
      __syncwarp();
      if (slot < total) out.slot_row[slot] = row;
      if (row >= 0) {
        out.row_token[row] = slot / slots;
        out.row_slot[row] = slot;
        out.row_weight[row] = weights[slot];
      }
    }
  }
  if (blockIdx.x == 0) {
    __syncthreads();
    for (int e = threadIdx.x; e <= experts; e += blockDim.x) out.offsets[e] = offsets[e];
    int* tiles = next;
    scan_experts(experts, tiles, warp_sums,
                 [&](int e) { return tile_count(offsets[e + 1] - offsets[e], tile_rows); });
    for (int e = threadIdx.x; e <= experts; e += blockDim.x) out.expert_tile_begin[e] = tiles[e];
    for (int e = warp; e < experts; e += kWarps)
      for (int t = tiles[e] + lane; t < tiles[e + 1]; t += 32) out.tile_expert[t] = e;
  }
}

}  // namespace

std::size_t permutation_bytes(const PermutationShape& s) {
  const std::size_t rows = static_cast<std::size_t>(rows_of(s)) * 4;
  return 2 * align256((s.experts + 1) * 4) + 4 * align256(rows) + align256(tiles_of(s) * 4);
}

std::size_t sort_workspace_bytes(const PermutationShape& s) {
  return align256(static_cast<std::size_t>(segments_of(s)) * s.experts * 4) + align256(s.experts * 4);
}

Permutation carve_permutation(const PermutationShape& s, void* memory) {
  char* p = static_cast<char*>(memory);
  auto take = [&](std::size_t n) {
    char* at = p;
    p += align256(n * 4);
    return reinterpret_cast<int*>(at);
  };
  const std::size_t rows = static_cast<std::size_t>(rows_of(s));
  Permutation out{};
  out.offsets = take(s.experts + 1);
  out.expert_tile_begin = take(s.experts + 1);
  out.row_token = take(rows);
  out.row_slot = take(rows);
  out.row_weight = reinterpret_cast<float*>(take(rows));
  out.slot_row = take(rows);
  out.tile_expert = take(tiles_of(s));
  return out;
}

void sort_by_expert(const PermutationShape& s, const int* ids, const float* weights,
                    const std::uint8_t* token_mask, const Permutation& out, void* workspace,
                    cudaStream_t stream) {
  if (s.experts < 1 || s.experts > kMaxExperts)
    throw ArgumentError("experts is " + std::to_string(s.experts) + ": want 1 to " +
                        std::to_string(kMaxExperts));
  if (s.tokens < 0 || s.slots < 1 || rows_of(s) >= (std::int64_t{1} << 31) - kSegment * kWarps)
    throw ArgumentError("tokens * slots is " + std::to_string(rows_of(s)) + ": want 0 to 2^31 - 2049");
  const int total = static_cast<int>(rows_of(s)), segments = segments_of(s);
  int* counts = static_cast<int*>(workspace);
  int* totals = reinterpret_cast<int*>(static_cast<char*>(workspace) +
                                       align256(static_cast<std::size_t>(segments) * s.experts * 4));
  const int blocks = std::max(1, (segments + kWarps - 1) / kWarps);
  count_segments<<<blocks, kWarps * 32, kWarps * s.experts * 4, stream>>>(ids, token_mask, total, s.slots,
                                                                          s.experts, segments, counts);
  scan_segments<<<s.experts, 256, 0, stream>>>(counts, segments, s.experts, totals);
  const int shared = (s.experts + 1 + kWarps * s.experts + 1) * 4;
  scatter<<<blocks, kWarps * 32, shared, stream>>>(ids, weights, token_mask, total, s.slots, s.experts,
                                                   segments, s.tile_rows, counts, totals, out);
  check(cudaGetLastError(), "sort_by_expert");
}

}  // namespace moeref::cuda
