// Shared memory and units of work of the weight gradients.
//
// K is cut into blocks of 64 rows. `right` [64, N] comes through a ring of slots that both consumer
// warpgroups read, `left` [64, 64] through a ring of each warpgroup's own, so that the warpgroups need not
// keep step. A unit is one panel of `right` (N columns of one expert) times some strips of `left` (64 columns
// each). Where the expert's blocks all fit into the right ring they are loaded once and stay for the unit's
// strips; otherwise they come again for every pair of strips.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/pipeline.cuh"

namespace moeref::cuda::sm90 {

constexpr int kStripM = 64;
constexpr int kTileM = 2 * kStripM;  // a strip for each warpgroup
constexpr int kLeftSlots = 5, kLeftBytes = kStripM * kBlockK * 2;
constexpr int kStoreRows = 16, kStoreColumns = 64;  // of a warp's TMA boxes
constexpr int kStoreBytes = kStoreRows * kStoreColumns * 2;

/// Slots are numbered through: `right`, the first warpgroup's `left`, the second's.
template <int N, int RightSlots, int Cluster>
struct GradientLayout {
  static constexpr int threads = kThreads;
  static constexpr int n = N, right_slots = RightSlots, cluster = Cluster, boxes = N / 64;
  static constexpr int right_bytes = N * kBlockK * 2, slots = RightSlots + 2 * kLeftSlots;
  static constexpr int left = RightSlots * right_bytes, staging = left + 2 * kLeftSlots * kLeftBytes,
                       barriers = staging + 8 * kStoreBytes, tickets = barriers + 8 * (3 * slots + 2);
  using Ring = TicketRing<Cluster, 12>;  // all warps
  static constexpr int total = tickets + Ring::bytes;
  static_assert(N % (64 * Cluster) == 0 && total <= 232448);

  static __device__ std::uint32_t data(std::uint32_t base, int slot) {
    return base + (slot < RightSlots ? slot * right_bytes : left + (slot - RightSlots) * kLeftBytes);
  }
  static __device__ std::uint32_t full(std::uint32_t base, int slot) { return base + barriers + 8 * slot; }
  static __device__ std::uint32_t empty(std::uint32_t base, int slot) { return full(base, slots + slot); }
  /// For a block that is worked on between its arrival and its use.
  static __device__ std::uint32_t landed(std::uint32_t base, int slot) {
    return full(base, 2 * slots + slot);
  }
  static __device__ std::uint32_t turn(std::uint32_t base, int warpgroup) {
    return full(base, 3 * slots + warpgroup);
  }

  static __device__ void initialise_barriers(std::uint32_t base) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < slots; ++i) {
        mbarrier_init(full(base, i), 1);
        mbarrier_init(empty(base, i), i < RightSlots ? 8 * Cluster : 4);  // one arrival per consumer warp
        mbarrier_init(landed(base, i), 1);
      }
      mbarrier_init(turn(base, 0), 4);
      mbarrier_init(turn(base, 1), 4);
      Ring::initialise(base + tickets);
    }
    publish_barriers<GradientLayout>();
  }
};

/// A place in a ring.
template <int Slots>
struct Ring {
  int first, at = 0;
  std::uint32_t phase = 0;
  __device__ int slot() const { return first + at; }
  __device__ void advance() {
    if (++at == Slots) at = 0, phase ^= 1;
  }
};
using LeftRing = Ring<kLeftSlots>;
template <class Layout>
using RightRing = Ring<Layout::right_slots>;
template <class Layout>
__device__ __forceinline__ LeftRing left_ring(int warpgroup) {
  return {Layout::right_slots + warpgroup * kLeftSlots};
}

struct WeightGradientShape {
  const int* offsets;  // of expert e: [e * step]
  int step;
  int left_width, right_width, experts;
  int m_tiles, n_tiles;     // of an expert, m_tiles counting clusters
  int unit_tiles, m_units;  // m_tiles of a unit, and units they make
  bool m_fastest;
  Tickets tickets;
  __device__ int units() const { return experts * m_units * n_tiles; }
};

struct GradientUnit {
  int expert, n_tile, m_tile, tiles;
  int begin, rows;
  /// wgmma steps of 16 rows. An expert without rows has one, of zeros.
  __device__ int steps() const { return max(1, (rows + 15) / 16); }
  __device__ int blocks() const { return (steps() + 3) / 4; }
  __device__ int whole_blocks() const { return rows / kBlockK; }
  /// Of the block after the whole ones; 0 where there is none.
  __device__ int last_steps() const { return steps() - 4 * whole_blocks(); }
  template <class Layout>
  __device__ bool resident() const {
    return blocks() <= Layout::right_slots;
  }
  /// First row of M of a warpgroup's strip.
  template <class Layout>
  __device__ int m(int tile, int warpgroup) const {
    return ((m_tile + tile) * Layout::cluster + rank_in_cluster<Layout>()) * kTileM + warpgroup * kStripM;
  }
};

__device__ __forceinline__ GradientUnit locate(const WeightGradientShape& s, int work) {
  const int per_expert = s.m_units * s.n_tiles, e = work / per_expert, rest = work - e * per_expert;
  const int m = (s.m_fastest ? rest % s.m_units : rest / s.n_tiles) * s.unit_tiles;
  const int n = s.m_fastest ? rest / s.m_units : rest % s.n_tiles;
  const int begin = s.offsets[e * s.step];
  return {e, n, m, min(s.unit_tiles, s.m_tiles - m), begin, s.offsets[(e + 1) * s.step] - begin};
}

/// Calls work(unit) for every unit of this block or cluster.
template <class Tickets, class Work>
__device__ __forceinline__ void for_units(const WeightGradientShape& s, Tickets& tickets, const Work& work) {
  for (int i = tickets.next(); i < s.units(); i = tickets.next()) work(locate(s, i));
}

}  // namespace moeref::cuda::sm90
