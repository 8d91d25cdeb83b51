// plan_dispatch: each segment of 256 tokens counts its rows for every rank; then each segment adds up those
// before it and places its own, so that places do not depend on timing; of blocks that do this for one
// segment each serves some of the ranks. Blocks without tokens help to write what lies behind the rows, which
// is most where a rank has few tokens. push_rows: one warp per token, up to eight 16-byte words a lane in
// flight, stored to each receiver while they are in registers; blocks for half of the device, which keeps the
// links busy and lets other kernels in. Floor of push_rows: the bytes that leave this device over one
// direction of its links.
#include "cuda_impl/expert_parallel/dispatch.hpp"

#include <algorithm>

#include "cuda_impl/expert_parallel/packed_places.hpp"
#include "cuda_impl/memory/words.cuh"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda {
namespace {

constexpr int kSegment = 256, kWarps = kSegment / 32;
constexpr int kMostFilling = 64, kFillsAThread = 16;  // blocks of place_rows without tokens
constexpr std::int64_t kPlacingBlocks = 4 * 132;      // run at once
constexpr int kPushBlocks = 2 * 132;                  // two of the four that a multiprocessor holds

std::int64_t segments_of(const DispatchShape& s) {
  return std::max<std::int64_t>(1, (s.tokens + kSegment - 1) / kSegment);
}

__device__ bool is_real(const DispatchInput& in, std::int64_t token) {
  return in.token_mask == nullptr || in.token_mask[token] != 0;
}

/// The expert's number on the rank that holds it, and that rank; -1 for no expert.
struct Home {
  int rank, expert;
};
__device__ Home home_of(const DispatchShape& s, int id) {
  if (id < 0 || id >= s.own_experts * s.ranks) return {-1, -1};
  return {id / s.own_experts, id % s.own_experts};
}

/// Bit p: the token goes to rank p.
__device__ unsigned long long ranks_of(const DispatchShape& s, const DispatchInput& in, std::int64_t token) {
  if (token >= s.tokens) return 0;
  if (s.exchange == Exchange::all_gather) return s.ranks == 64 ? ~0ull : (1ull << s.ranks) - 1;
  unsigned long long out = 0;
  if (!is_real(in, token)) return out;
  for (int j = 0; j < s.slots; ++j) {
    const Home home = home_of(s, in.ids[token * s.slots + j]);
    if (home.rank >= 0) out |= 1ull << home.rank;
  }
  return out;
}

/// in_warp[w][p]: rows of warp w for rank p.
__device__ void count_in_warps(const DispatchShape& s, unsigned long long goes, int (*in_warp)[kMaxRanks]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int p = 0; p < s.ranks; ++p) {
    const unsigned who = __ballot_sync(0xffffffffu, goes >> p & 1);
    if (lane == 0) in_warp[warp][p] = __popc(who);
  }
}

/// counts [segments, n]: rows for each rank; work [segments, n] or null: slots with work there.
__global__ void __launch_bounds__(kSegment)
    count_rows(const DispatchShape s, const DispatchInput in, int* counts, int* work) {
  __shared__ int in_warp[kWarps][kMaxRanks], slots[kMaxRanks];
  const std::int64_t token = std::int64_t{blockIdx.x} * kSegment + threadIdx.x;
  for (int p = threadIdx.x; p < s.ranks; p += kSegment) slots[p] = 0;
  count_in_warps(s, ranks_of(s, in, token), in_warp);
  __syncthreads();
  if (work != nullptr && token < s.tokens && is_real(in, token))
    for (int j = 0; j < s.slots; ++j) {
      const Home home = home_of(s, in.ids[token * s.slots + j]);
      if (home.rank >= 0) atomicAdd(&slots[home.rank], 1);
    }
  __syncthreads();
  for (int p = threadIdx.x; p < s.ranks; p += kSegment) {
    int sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += in_warp[w][p];
    counts[std::int64_t{blockIdx.x} * s.ranks + p] = sum;
    if (work != nullptr) work[std::int64_t{blockIdx.x} * s.ranks + p] = slots[p];
  }
}

/// before[p] and total[p]: rows for rank p in the segments before this one and in all. A warp per rank. With
/// one segment, counted in warps here, there is nothing else to add.
__device__ void add_segments(const DispatchShape& s, const int* counts, const int (*in_warp)[kMaxRanks],
                             int* before, int* total) {
  if (gridDim.x == 1) {
    for (int p = threadIdx.x; p < s.ranks; p += kSegment) {
      int sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += in_warp[w][p];
      before[p] = 0, total[p] = sum;
    }
    return;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int segments = static_cast<int>((s.tokens + kSegment - 1) / kSegment);
  for (int p = warp; p < s.ranks; p += kWarps) {
    int lower = 0, all = 0;
    for (int i = lane; i < segments; i += 32) {
      const int n = counts[std::int64_t{i} * s.ranks + p];
      all += n;
      if (i < static_cast<int>(blockIdx.x)) lower += n;
    }
    for (int d = 16; d > 0; d /= 2) {
      lower += __shfl_xor_sync(0xffffffffu, lower, d);
      all += __shfl_xor_sync(0xffffffffu, all, d);
    }
    if (lane == 0) before[p] = lower, total[p] = all;
  }
}

/// N numbers that lie one after another, aligned to their size.
template <class T, int N>
struct alignas(N * sizeof(T)) Together {
  T of[N];
};

/// The slots of `rows` of a warp's tokens, those of `lanes`, into the rows from `row` on at rank p: N at a
/// time, neighbouring lanes side by side, so that whole lines go over a link.
template <int N>
__device__ void write_slots(const DispatchShape& s, const DispatchInput& in, const Dispatch& out,
                            std::int64_t first_token, const int* lanes, int rows, int p, int row) {
  const int parts = s.slots / N;
  for (int at = threadIdx.x % 32; at < rows * parts; at += 32) {
    const std::int64_t token = first_token + lanes[at / parts];
    const bool real = is_real(in, token);
    Together<int, N> experts;
    Together<float, N> weights;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const std::int64_t slot = token * s.slots + at % parts * N + i;
      const Home home = home_of(s, in.ids[slot]);
      experts.of[i] = real && home.rank == p ? home.expert : -1;
      weights.of[i] = in.weights[slot];
    }
    const std::int64_t to = std::int64_t{row} * parts + at;
    static_cast<Together<int, N>*>(out.ids.of[p])[to] = experts;
    static_cast<Together<float, N>*>(out.weights.of[p])[to] = weights;
  }
}

template <int N>
__global__ void __launch_bounds__(kSegment) place_rows(const DispatchShape s, const DispatchInput in,
                                                       const int* counts, const Dispatch out, bool packed) {
  __shared__ int in_warp[kWarps][kMaxRanks];
  __shared__ int before[kMaxRanks], total[kMaxRanks], lanes[kWarps][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::int64_t token = std::int64_t{blockIdx.x} * kSegment + threadIdx.x;
  const unsigned long long goes = ranks_of(s, in, token);
  count_in_warps(s, goes, in_warp);
  __syncthreads();
  add_segments(s, counts, in_warp, before, total);
  __syncthreads();
  const int first = static_cast<int>(blockIdx.y), step = static_cast<int>(gridDim.y);
  for (int p = first; p < s.ranks; p += step) {
    unsigned who = __ballot_sync(0xffffffffu, goes >> p & 1);
    if (packed && out.rows.sent[p] == 0) who = 0;  // of packed rows none is sent where they do not fit
    int row = before[p];
    for (int w = 0; w < warp; ++w) row += in_warp[w][p];
    const bool goes_there = who >> lane & 1;
    const int nth = __popc(who & ((1u << lane) - 1));
    if (goes_there) lanes[warp][nth] = lane;
    __syncwarp();
    write_slots<N>(s, in, out, token - lane, lanes[warp], __popc(who), p,
                   packed ? out.rows.out[p] + row : row);
    __syncwarp();  // before the next rank's
    if (token < s.tokens) out.place[token * s.ranks + p] = goes_there ? row + nth : -1;
  }
  if (packed) return;
  // Behind the rows no slot has an expert.
  Together<int, N> none;
#pragma unroll
  for (int i = 0; i < N; ++i) none.of[i] = -1;
  for (int p = first; p < s.ranks; p += step) {
    const std::int64_t end = s.max_tokens * s.slots / N, threads = std::int64_t{gridDim.x} * kSegment;
    for (std::int64_t i = std::int64_t{total[p]} * s.slots / N + token; i < end; i += threads)
      static_cast<Together<int, N>*>(out.ids.of[p])[i] = none;
  }
  if (blockIdx.x == 0 && first == 0)
    for (int p = threadIdx.x; p < s.ranks; p += kSegment) {
      *static_cast<int*>(out.counts.of[p]) = out.rows.sent[p] = total[p];
      out.rows.out[p] = out.rows.home[p] = out.rows.laid[p] = 0;
      out.rows.in[p] = out.rows.back[p] = static_cast<int>(p * s.max_tokens);
    }
}

int slots_together(const DispatchShape& s) { return s.slots % 4 == 0 ? 4 : s.slots % 2 == 0 ? 2 : 1; }

void place(const DispatchShape& s, const DispatchInput& input, std::int64_t blocks, const int* counts,
           const Dispatch& out, bool packed, cudaStream_t stream) {
  const int together = slots_together(s);
  const auto kernel = together == 4 ? place_rows<4> : together == 2 ? place_rows<2> : place_rows<1>;
  const std::int64_t parts = std::clamp<std::int64_t>(kPlacingBlocks / blocks, 1, s.ranks);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
  kernel<<<grid, kSegment, 0, stream>>>(s, input, counts, out, packed);
}

/// Bit p: place[p] is in the range. By all lanes of a warp.
__device__ unsigned long long ranks_in(const int* place, int ranks, RowRange range) {
  const int lane = threadIdx.x % 32;
  unsigned long long out = 0;
  for (int first = 0; first < ranks; first += 32) {
    const int row = first + lane < ranks ? place[first + lane] : -1;
    const bool goes = row >= range.first && row < range.first + range.count;
    out |= static_cast<unsigned long long>(__ballot_sync(0xffffffffu, goes)) << first;
  }
  return out;
}

template <class Word>
__global__ void __launch_bounds__(256)
    push(std::int64_t tokens, int ranks, int words, const Word* __restrict__ rows,
         const int* __restrict__ place, const int* __restrict__ begin, const RankPointers to,
         const RowRange range) {
  constexpr int kInFlight = 8;
  const int lane = threadIdx.x % 32;
  const std::int64_t warps = std::int64_t{gridDim.x} * (blockDim.x / 32);
  // A token's place is never behind its number.
  for (std::int64_t t = range.first + std::int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
       t < tokens; t += warps) {
    const unsigned long long goes = ranks_in(place + t * ranks, ranks, range);
    if (goes == 0) continue;
    const Word* from = rows + t * words;
    for (int first = lane; first < words; first += 32 * kInFlight) {
      Word word[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i)
        if (first + 32 * i < words) word[i] = from[first + 32 * i];
      for (unsigned long long left = goes; left != 0; left &= left - 1) {
        const int p = __ffsll(static_cast<long long>(left)) - 1;
        Word* into = static_cast<Word*>(to.of[p]) + (std::int64_t{begin[p]} + place[t * ranks + p]) * words;
#pragma unroll
        for (int i = 0; i < kInFlight; ++i)
          if (first + 32 * i < words) into[first + 32 * i] = word[i];
      }
    }
  }
}

}  // namespace

std::size_t dispatch_workspace_bytes(const DispatchShape& s) {
  return static_cast<std::size_t>(segments_of(s)) * static_cast<std::size_t>(s.ranks) * 2 * sizeof(int);
}

void plan_dispatch(const DispatchShape& s, const DispatchInput& input, const Dispatch& out, void* workspace,
                   cudaStream_t stream) {
  const std::int64_t segments = segments_of(s), fills = s.max_tokens * s.slots * s.ranks / slots_together(s),
                     filling = std::min<std::int64_t>(kMostFilling, fills / (kSegment * kFillsAThread)),
                     blocks = std::max(segments, filling);
  int* counts = static_cast<int*>(workspace);
  int* const none = nullptr;
  if (blocks > 1)
    count_rows<<<static_cast<unsigned>(segments), kSegment, 0, stream>>>(s, input, counts, none);
  place(s, input, blocks, counts, out, false, stream);
  check(cudaGetLastError(), "plan_dispatch");
}

void count_dispatch(const DispatchShape& s, const DispatchInput& input, const RankPointers& told,
                    void* workspace, cudaStream_t stream) {
  const auto segments = segments_of(s);
  int *counts = static_cast<int*>(workspace), *work = counts + segments * s.ranks;
  count_rows<<<static_cast<unsigned>(segments), kSegment, 0, stream>>>(s, input, counts, work);
  check(cudaGetLastError(), "count_dispatch");
  tell_totals(s.ranks, static_cast<int>(segments), counts, work, told, stream);
}

void plan_packed_dispatch(const DispatchShape& s, const DispatchInput& input, const Dispatch& out,
                          int* received_ids, std::int64_t room, void* workspace, cudaStream_t stream) {
  no_expert_behind(out.rows, s.ranks, room, s.slots, received_ids, stream);
  place(s, input, segments_of(s), static_cast<int*>(workspace), out, true, stream);
  check(cudaGetLastError(), "plan_packed_dispatch");
}

void push_rows(const DispatchShape& s, DataType dtype, int width, const void* rows, const int* place,
               const int* begin, const RankPointers& to, RowRange range, cudaStream_t stream) {
  if (s.tokens <= range.first || range.count == 0) return;
  const auto blocks =
      static_cast<unsigned>(std::min<std::int64_t>((s.tokens - range.first + 7) / 8, kPushBlocks));
  with_word(static_cast<std::size_t>(width) * bytes_of(dtype), [&]<class Word>(int words) {
    push<Word><<<blocks, 256, 0, stream>>>(s.tokens, s.ranks, words, static_cast<const Word*>(rows), place,
                                           begin, to, range);
  });
  check(cudaGetLastError(), "push_rows");
}

}  // namespace moeref::cuda
