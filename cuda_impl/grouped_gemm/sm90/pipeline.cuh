// The shared-memory pipeline and the wgmma loop of the token products; clusters and barriers of all.
//
// A block is two consumer warpgroups and one producer warpgroup, or, where weights are codes, one consumer
// warpgroup and twelve warps that bring them (token_product.cuh). One stage holds 64 of K: operand A (a strip
// of 128 rows of M as two m64 blocks, for one warpgroup or for each of the two) and operand B (up to MaxN
// rows of N). M is always a weight dimension and N, which wgmma takes in any multiple of 16, the other one: a
// tile of 136 tokens costs 144 and not 256. With Cluster = 2, two blocks form a cluster with the same K, and
// the same rows of M or of N: each loads half of that operand into both (multicast), which takes a third off
// the traffic from L2, the limit of the loop without it; a stage is free when both have read it.
// product_kinds.hpp chooses.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/ptx.cuh"
#include "cuda_impl/grouped_gemm/sm90/tickets.cuh"
#include "cuda_impl/grouped_gemm/sm90/wgmma.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"

namespace moeref::cuda::sm90 {

constexpr int kStrip = 128, kBlockK = 64;
constexpr int kThreads = 384, kProducerRegisters = 40, kConsumerRegisters = 232;
constexpr int kCodeRowBytes = 64, kCodeSlotBytes = kStrip * kCodeRowBytes + 2048;  // codes and scales
constexpr int kStripParts = 4, kSlotParts = 2 * kStripParts;  // of a stage, or of a slot's one or two stages
constexpr int kBlock64Bytes = 64 * kBlockK * 2;               // one m64 (or n64, MN-major) block of a stage

/// Strips: 2 of a tile that the warpgroups share, or 1 where they take turns. Staging: bytes for epilogues.
/// Converters: warps that bring operand A from codes, beside one warpgroup that multiplies instead of two.
template <int Strips, int MaxN, int Stages, int Staging, int Cluster, int Converters = 0>
struct SharedLayout {
  static_assert(Strips == 1 || Strips == 2);
  static_assert(Cluster == 1 || Cluster == 2);
  static constexpr int strips = Strips, max_n = MaxN, stages = Stages, cluster = Cluster;
  static constexpr bool by_turns = Strips == 1;
  static constexpr int a_bytes = Strips * kStrip * kBlockK * 2, b_bytes = MaxN * kBlockK * 2,
                       stage_bytes = a_bytes + b_bytes;
  /// So many that no converter's next slot can be a phase behind (code_converter.cuh).
  static constexpr int code_slots = Converters > 0 ? Stages + (Converters + kStripParts - 1) / kStripParts
                                                   : 0;
  static constexpr int codes = Stages * stage_bytes, staging = codes + code_slots * kCodeSlotBytes,
                       barriers = staging + Staging, tickets = barriers + 16 * (Stages + code_slots) + 32;
  static constexpr int consumer_threads = Converters > 0 ? 128 : 256;
  static constexpr int threads = Converters > 0 ? consumer_threads + 32 * (Converters + 1) : kThreads;
  static constexpr int converters = Converters;
  static constexpr int arrivals = 1 + (Converters > 0 ? kStripParts : 0);  // at a stage that is full
  using Ring = TicketRing<Cluster, consumer_threads / 32 + Converters + 1>;
  static constexpr int total = tickets + Ring::bytes;
  static_assert(b_bytes % 1024 == 0 && total <= 232448);

  static __device__ std::uint32_t a(std::uint32_t base, int stage) { return base + stage * stage_bytes; }
  static __device__ std::uint32_t b(std::uint32_t base, int stage) {
    return base + stage * stage_bytes + a_bytes;
  }
  static __device__ std::uint32_t code_slot(std::uint32_t base, int slot) {
    return base + codes + slot * kCodeSlotBytes;
  }
  static __device__ std::uint32_t full(std::uint32_t base, int stage) { return base + barriers + 8 * stage; }
  static __device__ std::uint32_t empty(std::uint32_t base, int stage) {
    return base + barriers + 8 * (Stages + stage);
  }
  /// Whose turn it is to multiply, and, where warpgroups share what an epilogue stages, to store.
  static __device__ std::uint32_t turn_to_multiply(std::uint32_t base, int warpgroup) {
    return base + barriers + 8 * (2 * Stages + warpgroup);
  }
  static __device__ std::uint32_t turn_to_store(std::uint32_t base, int warpgroup) {
    return base + barriers + 8 * (2 * Stages + 2 + warpgroup);
  }
  static __device__ std::uint32_t code_full(std::uint32_t base, int slot) {
    return base + barriers + 8 * (2 * Stages + 4 + slot);
  }
  static __device__ std::uint32_t code_empty(std::uint32_t base, int slot) {
    return base + barriers + 8 * (2 * Stages + 4 + code_slots + slot);
  }
};

template <class Layout, int Stages = Layout::stages>
struct PipelineState {
  int stage = 0;
  std::uint32_t phase = 0;
  __device__ void advance() {
    if (++stage == Stages) stage = 0, phase ^= 1;
  }
  /// By no more than the stages that there are.
  __device__ void advance_little(int count) {
    stage += count;
    if (stage >= Stages) stage -= Stages, phase ^= 1;
  }
  __device__ void advance(int count) {
    stage += count;
    phase ^= stage / Stages & 1;
    stage %= Stages;
  }
};

/// After their initialisation by one thread.
template <class Layout>
__device__ void publish_barriers() {
  fence_barriers();
  if constexpr (Layout::cluster == 2)
    cluster_sync();
  else
    __syncthreads();
}

template <class Layout>
__device__ void initialise_barriers(std::uint32_t base) {
  if (threadIdx.x == 0) {
    for (int s = 0; s < Layout::stages; ++s) {
      mbarrier_init(Layout::full(base, s), Layout::arrivals);
      mbarrier_init(Layout::empty(base, s), 4 * Layout::strips * Layout::cluster);  // one per consumer warp
    }
    for (int warpgroup = 0; warpgroup < 2; ++warpgroup) {
      mbarrier_init(Layout::turn_to_multiply(base, warpgroup), 4);
      mbarrier_init(Layout::turn_to_store(base, warpgroup), 4);
    }
    for (int slot = 0; slot < Layout::code_slots; ++slot) {
      mbarrier_init(Layout::code_full(base, slot), 1 + 32);  // the lead for TMA, all lanes for their copies
      mbarrier_init(Layout::code_empty(base, slot), kSlotParts);
    }
    Layout::Ring::initialise(base + Layout::tickets);
  }
  publish_barriers<Layout>();
}

// No block leaves while the other may still write to it.
template <class Layout>
__device__ __forceinline__ void leave() {
  if constexpr (Layout::cluster == 2) cluster_sync();
}

template <class Layout>
__device__ __forceinline__ int rank_in_cluster() {
  return Layout::cluster == 2 ? cluster_rank() : 0;
}

/// Gives a stage back to both blocks' producers, by its barrier.
template <class Layout>
__device__ __forceinline__ void release_at(std::uint32_t empty) {
  if constexpr (Layout::cluster == 2) {
    if (threadIdx.x % 32 < 2) mbarrier_arrive_at(empty, threadIdx.x % 32);
  } else {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
  }
}
template <class Layout>
__device__ __forceinline__ void release(std::uint32_t base, int stage) {
  release_at<Layout>(Layout::empty(base, stage));
}

/// A box of operand A into this block's stage, or into both blocks'.
template <int Cluster>
__device__ __forceinline__ void load_box(std::uint32_t dst, const CUtensorMap& map, std::uint32_t full,
                                         int c0, int c1, int c2) {
  if constexpr (Cluster == 2)
    tma_load_multicast(dst, &map, full, c0, c1, c2, 3);
  else
    tma_load(dst, &map, full, c0, c1, c2);
}

// Accumulators of one consumer thread: d[b][4 j + q] is row 64 b + 16 warp + lane / 4 + 8 (q / 2) of the
// warpgroup's 128 rows of M, column 8 j + 2 (lane % 4) + q % 2 of N.
template <int MaxN>
struct Accumulator {
  float d[2][MaxN / 2];
};

template <class Layout, int N, bool AMnMajor, bool BMnMajor, class WhileRunning>
__device__ __forceinline__ void accumulate_n(Accumulator<Layout::max_n>& acc, std::uint32_t base, int strip,
                                             int k_blocks, PipelineState<Layout>& pipe,
                                             const WhileRunning& while_running) {
  constexpr int a_step = AMnMajor ? 2048 >> 4 : 32 >> 4, b_step = BMnMajor ? 2048 >> 4 : 32 >> 4;
  int previous = 0;
  for (int kb = 0; kb < k_blocks; ++kb) {
    mbarrier_wait(Layout::full(base, pipe.stage), pipe.phase);
    const std::uint64_t a =
        descriptor(Layout::a(base, pipe.stage) + strip * 2 * kBlock64Bytes, kBlock64Bytes);
    const std::uint64_t b = descriptor(Layout::b(base, pipe.stage), kBlock64Bytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int add = kb > 0 || k > 0;
      wgmma<N, AMnMajor, BMnMajor>(acc.d[0], a + k * a_step, b + k * b_step, add);
      wgmma<N, AMnMajor, BMnMajor>(acc.d[1], a + k * a_step + (kBlock64Bytes >> 4), b + k * b_step, add);
    }
    wgmma_commit();
    if (kb > 0) {
      wgmma_wait<1>();
      release<Layout>(base, previous);
    }
    previous = pipe.stage;
    pipe.advance();
  }
  while_running();
  wgmma_wait<0>();
  if (k_blocks > 0) release<Layout>(base, previous);
}

// Sums k_blocks stages into acc for the first n columns (a multiple of 16 up to MaxN); clears acc when
// k_blocks is 0. while_running() is called once the last product is issued.
template <class Layout, bool AMnMajor, bool BMnMajor, class WhileRunning>
__device__ __forceinline__ void accumulate(Accumulator<Layout::max_n>& acc, std::uint32_t base, int strip,
                                           int n, int k_blocks, PipelineState<Layout>& pipe,
                                           const WhileRunning& while_running) {
#pragma unroll
  for (int i = 0; i < Layout::max_n / 2; ++i) acc.d[0][i] = acc.d[1][i] = 0;
  fence_accumulator(acc.d[0]);
  fence_accumulator(acc.d[1]);
#define MOEREF_N(v)                                                                                      \
  case v:                                                                                                \
    if constexpr (16 * v <= Layout::max_n)                                                               \
      accumulate_n<Layout, 16 * v, AMnMajor, BMnMajor>(acc, base, strip, k_blocks, pipe, while_running); \
    break;
  switch (n / 16) {
    MOEREF_N(1)
    MOEREF_N(2)
    MOEREF_N(3)
    MOEREF_N(4)
    MOEREF_N(5)
    MOEREF_N(6)
    MOEREF_N(7)
    MOEREF_N(8)
    MOEREF_N(9)
    MOEREF_N(10)
  }
#undef MOEREF_N
  fence_accumulator(acc.d[0]);
  fence_accumulator(acc.d[1]);
}

// A warpgroup whose rows of M lie outside the matrix lets the stages pass.
template <class Layout>
__device__ __forceinline__ void skip(std::uint32_t base, int k_blocks, PipelineState<Layout>& pipe) {
  for (int kb = 0; kb < k_blocks; ++kb) {
    mbarrier_wait(Layout::full(base, pipe.stage), pipe.phase);
    release<Layout>(base, pipe.stage);
    pipe.advance();
  }
}

}  // namespace moeref::cuda::sm90
