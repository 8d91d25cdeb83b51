// Stable counting sort of (token, slot) pairs by expert, and the row tiles of the grouped products. With
// chunks, a group is an expert's part of one chunk; without, an expert.
//
// A few slots are sort_few_slots()'s. Up to 2048 are sorted by one block in one launch. Else three launches.
// count_segments: one warp per segment of 256 slots counts its groups. scan_segments: one block per group
// turns the counts of its column into exclusive prefixes and writes the group's total. scatter: each block
// scans the totals (offsets), then each warp walks its segment 32 slots at a time; a slot's rank is its
// segment's prefix + the slots of the same group before it, found with __match_any_sync. Integer counts only:
// no result depends on the order of atomics. Floor: about 30 bytes per slot, under 2 us at 131072 slots;
// latency of three launches dominates.
#include <algorithm>
#include <string>

#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/permutation/sort_few_slots.hpp"
#include "cuda_impl/permutation/tile_split.hpp"
#include "moeref/cuda/error.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {
namespace {

constexpr int kSegment = 256;
constexpr int kWarps = 8;

std::size_t align256(std::size_t n) { return (n + 255) / 256 * 256; }
std::int64_t slots_of(const PermutationShape& s) { return s.tokens * s.slots; }
int segments_of(const PermutationShape& s) {
  return static_cast<int>((slots_of(s) + kSegment - 1) / kSegment);
}
int groups_of(const PermutationShape& s) { return s.experts * s.chunks.count; }

/// Of a group's entry in a segment's row of counts: these go beyond 2^31 at 2^39 rows x groups.
__device__ std::int64_t at(int segment, int groups, int group) {
  return static_cast<std::int64_t>(segment) * groups + group;
}

struct Slots {
  const int* ids;
  const std::uint8_t* mask;
  int total, slots, experts;
  int chunks, period, half;
  __device__ int group_of(int slot) const {
    if (slot >= total) return -1;
    const int id = ids[slot];
    if (id < 0 || id >= experts) return -1;
    const int token = slot / slots;
    if (mask != nullptr && !mask[token]) return -1;
    if (chunks == 1) return id;
    const int halves = token % period / half;  // of which the first is a chunk of its own
    return id * chunks + min((halves + 1) / 2, chunks - 1);
  }
};

/// Counts of the block's segments, [kWarps][groups] in shared memory; zeros for segments past the last.
__device__ void count(const Slots& in, int groups, int segments, int* histogram) {
  for (int i = threadIdx.x; i < kWarps * groups; i += blockDim.x) histogram[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = blockIdx.x * kWarps + warp;
  if (segment < segments) {
    for (int i = lane; i < kSegment; i += 32) {
      const int g = in.group_of(segment * kSegment + i);
      if (g >= 0) atomicAdd(&histogram[warp * groups + g], 1);
    }
  }
  __syncthreads();
}

__global__ void count_segments(const Slots in, int groups, int segments, int* counts) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  extern __shared__ int histogram[];
  count(in, groups, segments, histogram);
  const int first = blockIdx.x * kWarps;
  for (int i = threadIdx.x; i < min(kWarps, segments - first) * groups; i += blockDim.x)
    counts[at(first, groups, i)] = histogram[i];
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

__global__ void scan_segments(int* counts, int segments, int groups, int* totals) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  __shared__ int warp_sums[8];
  __shared__ int carry;
  if (threadIdx.x == 0) carry = 0;
  __syncthreads();
  for (int base = 0; base < segments; base += 256) {
    const int s = base + threadIdx.x;
    const int count = s < segments ? counts[at(s, groups, blockIdx.x)] : 0;
    const int inclusive = block_scan(count, warp_sums);
    const int before = carry;
    if (s < segments) counts[at(s, groups, blockIdx.x)] = before + inclusive - count;
    __syncthreads();
    if (threadIdx.x == 255) carry = before + inclusive;
    __syncthreads();
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

// Exclusive scan of f(i) over i < count into out[0..count], by a block of 256 threads.
template <class F>
__device__ void scan(int count, int* out, int* warp_sums, F f) {
  int carry = 0;
  for (int base = 0; base < count; base += 256) {
    const int i = base + threadIdx.x;
    const int inclusive = block_scan(i < count ? f(i) : 0, warp_sums) + carry;
    if (i < count) out[i + 1] = inclusive;
    __syncthreads();
    carry = out[min(base + 256, count)];
  }
  if (threadIdx.x == 0) out[0] = 0;
  __syncthreads();
}

/// Rows of the block's segments, and by the first block where groups and tiles begin. `offsets` [groups + 1]
/// and `next` [kWarps][groups] are shared memory; prefixes [segments, groups], which may be `next`, and
/// totals [groups] are complete for the block.
__device__ void place_rows(const Slots& in, const float* weights, int groups, int segments, int tile_rows,
                           int max_rows, const int* prefixes, const int* totals, int* offsets, int* next,
                           const Permutation& out, const Cleared& cleared) {
  __shared__ int warp_sums[8];
  scan(groups, offsets, warp_sums, [&](int g) { return totals[g]; });
  const int needed = offsets[groups];
  const bool fits = needed <= max_rows;
  if (!fits) {
    __syncthreads();  // all have read what is needed
    for (int g = threadIdx.x; g <= groups; g += blockDim.x) offsets[g] = 0;
    __syncthreads();
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, segment = blockIdx.x * kWarps + warp;
  if (segment < segments) {
    int* mine = next + warp * groups;
    for (int g = lane; g < groups; g += 32) mine[g] = offsets[g] + prefixes[at(segment, groups, g)];
    __syncwarp();
    for (int i = lane; i < kSegment; i += 32) {
      const int slot = segment * kSegment + i;
      const int g = in.group_of(slot);
      const unsigned same = __match_any_sync(0xffffffffu, g);
      int row = -1;
      if (fits && g >= 0) row = mine[g] + __popc(same & ((1u << lane) - 1));
      __syncwarp();
      if (row >= 0 && (same >> lane) == 1u) mine[g] = row + 1;
      __syncwarp();
      if (slot < in.total) out.slot_row[slot] = row;
      if (row >= 0) {
        out.row_token[row] = slot / in.slots;
        out.row_slot[row] = slot;
        out.row_weight[row] = weights[slot];
      }
    }
  }
  if (blockIdx.x == 0) {
    for (int i = threadIdx.x; i < cleared.count; i += blockDim.x) cleared.counters[i] = 0;
    __syncthreads();
    for (int g = threadIdx.x; g <= groups; g += blockDim.x) out.offsets[g] = offsets[g];
    if (threadIdx.x == 0) *out.rows_needed = needed;
    int* tiles = next;
    for (int c = 0; c < in.chunks; ++c) {
      scan(in.experts, tiles, warp_sums, [&](int e) {
        const int g = e * in.chunks + c;
        return tile_count(offsets[g + 1] - offsets[g], tile_rows);
      });
      int* begin = out.expert_tile_begin + c * (in.experts + 1);
      for (int e = threadIdx.x; e <= in.experts; e += blockDim.x) begin[e] = tiles[e];
      for (int e = warp; e < in.experts; e += kWarps)
        for (int t = tiles[e] + lane; t < tiles[e + 1]; t += 32) out.tile_expert[c * out.most_tiles + t] = e;
      __syncthreads();
    }
  }
}

__global__ void scatter(const Slots in, const float* weights, int groups, int segments, int tile_rows,
                        int max_rows, const int* prefixes, const int* totals, const Permutation out,
                        const Cleared cleared) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  extern __shared__ int shared[];
  place_rows(in, weights, groups, segments, tile_rows, max_rows, prefixes, totals, shared,
             shared + groups + 1, out, cleared);
}

/// All of it by one block, for at most kWarps segments.
__global__ void sort_in_block(const Slots in, const float* weights, int groups, int segments, int tile_rows,
                              int max_rows, const Permutation out, const Cleared cleared) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  extern __shared__ int shared[];
  int *offsets = shared, *next = offsets + groups + 1, *totals = next + kWarps * groups + 1;
  count(in, groups, segments, next);
  for (int g = threadIdx.x; g < groups; g += blockDim.x) {
    int sum = 0;
    for (int s = 0; s < kWarps; ++s) {
      const int here = next[s * groups + g];
      next[s * groups + g] = sum;
      sum += here;
    }
    totals[g] = sum;
  }
  __syncthreads();
  place_rows(in, weights, groups, segments, tile_rows, max_rows, next, totals, offsets, next, out, cleared);
}

}  // namespace

std::size_t permutation_bytes(const PermutationShape& s) {
  const std::size_t rows = static_cast<std::size_t>(s.max_rows) * 4;
  const auto chunks = static_cast<std::size_t>(s.chunks.count);
  return align256((groups_of(s) + 1) * 4) + align256(chunks * (s.experts + 1) * 4) + 3 * align256(rows) +
         align256(static_cast<std::size_t>(slots_of(s)) * 4) + align256(chunks * most_tiles(s) * 4) +
         align256(4);
}

std::size_t sort_workspace_bytes(const PermutationShape& s) {
  return align256(static_cast<std::size_t>(segments_of(s)) * groups_of(s) * 4) + align256(groups_of(s) * 4);
}

Permutation carve_permutation(const PermutationShape& s, void* memory) {
  char* p = static_cast<char*>(memory);
  auto take = [&](std::size_t n) {
    char* at = p;
    p += align256(n * 4);
    return reinterpret_cast<int*>(at);
  };
  const std::size_t rows = static_cast<std::size_t>(s.max_rows);
  Permutation out{};
  const int chunks = s.chunks.count;
  out.offsets = take(groups_of(s) + 1);
  out.expert_tile_begin = take(chunks * (s.experts + 1));
  out.row_token = take(rows);
  out.row_slot = take(rows);
  out.row_weight = reinterpret_cast<float*>(take(rows));
  out.slot_row = take(static_cast<std::size_t>(slots_of(s)));
  out.tile_expert = take(chunks * most_tiles(s));
  out.rows_needed = take(1);
  out.chunks = chunks, out.most_tiles = most_tiles(s);
  return out;
}

void sort_by_expert(const PermutationShape& s, const int* ids, const float* weights,
                    const std::uint8_t* token_mask, const Permutation& out, void* workspace,
                    cudaStream_t stream, const Cleared& cleared) {
  forget_earlier_errors();
  const int groups = groups_of(s), chunks = s.chunks.count;
  if (chunks < 1) throw ArgumentError("chunks is " + std::to_string(chunks) + ": want 1 or more");
  if (s.experts < 1 || groups > kMostGroups)
    throw ArgumentError((chunks == 1 ? "experts is " : "experts times chunks is ") + std::to_string(groups) +
                        ": want 1 to " + std::to_string(kMostGroups));
  if (s.tokens < 0 || s.slots < 1 || slots_of(s) >= (std::int64_t{1} << 31) - kSegment * kWarps)
    throw ArgumentError("tokens * slots is " + std::to_string(slots_of(s)) + ": want 0 to 2^31 - 2049");
  if (s.max_rows < 0 || s.max_rows > slots_of(s))
    throw ArgumentError("max_rows is " + std::to_string(s.max_rows) +
                        ": want 0 to tokens * slots = " + std::to_string(slots_of(s)));
  if (sorts_few_slots(s)) return sort_few_slots(s, ids, weights, token_mask, out, cleared, stream);
  const int segments = segments_of(s);
  const Slots in{ids,       token_mask, static_cast<int>(slots_of(s)),     s.slots,
                 s.experts, chunks,     static_cast<int>(s.chunks.period), static_cast<int>(s.chunks.half())};
  int* counts = static_cast<int*>(workspace);
  int* totals = reinterpret_cast<int*>(static_cast<char*>(workspace) +
                                       align256(static_cast<std::size_t>(segments) * groups * 4));
  const int blocks = std::max(1, (segments + kWarps - 1) / kWarps);
  constexpr unsigned threads = kWarps * 32;
  const auto launch = [&]<auto Kernel>(int count, unsigned block, int words, const auto&... arguments) {
    launch_overlapped<Kernel>(
        "sort_by_expert", {static_cast<unsigned>(count), block, static_cast<std::size_t>(words) * 4, stream},
        arguments...);
  };
  const int most = static_cast<int>(s.max_rows);
  if (blocks == 1)
    return launch.template operator()<sort_in_block>(1, threads, (kWarps + 2) * groups + 2, in, weights,
                                                     groups, segments, s.tile_rows, most, out, cleared);
  launch.template operator()<count_segments>(blocks, threads, kWarps * groups, in, groups, segments, counts);
  launch.template operator()<scan_segments>(groups, 256u, 0, counts, segments, groups, totals);
  launch.template operator()<scatter>(blocks, threads, groups + 1 + kWarps * groups + 1, in, weights, groups,
                                      segments, s.tile_rows, most, counts, totals, out, cleared);
}

}  // namespace moeref::cuda
