// The 256 x 128 tile of float32 by wgmma: each operand as three bfloat16 planes, and of their nine products
// the six that matter, smallest first. What is left out is below 2^-24 of each term; the tensor cores add up
// six sums for each 16 of K, so that a sum keeps the bound of one over K in order.
//
// Two warpgroups, of each 128 rows 64. A block of 32 of K comes by cp.async. All threads turn the right
// operand's part into planes in shared memory; of the left one each warp has its own rows as fragments in
// registers, of the first 128 while the tensor cores are at the other 128 of the block before, and of those
// while they are at the first.
//
// Planes of an infinite number multiply to NaN where the number itself would not, so a tile with a sum that
// is not finite is computed once more by multiply-adds.
//
// Floor on an H200: 790 / 6 = 132 TFLOP/s. A block of K takes the tensor cores 3072 cycles, and shared memory
// 2500 of them: half by wgmma's right operand, the rest by numbers that come, are read, and return as planes.
#pragma once

#include "cuda_impl/grouped_gemm/planes/split.cuh"
#include "cuda_impl/grouped_gemm/portable/tile.cuh"
#include "cuda_impl/grouped_gemm/sm90/wgmma.cuh"

namespace moeref::cuda::planes {

/// A PortableTile of its own kind.
struct PlanesTile {
  using Element = float;
  static constexpr int kStrips = 2;
  static constexpr int rows = kStrips * portable::kTile;
  static constexpr int blocks = 1;  // of a multiprocessor
  static constexpr int kStages = 3, kOperandBytes = portable::kTile * kDepth * 4;
  static constexpr int kStageBytes = (kStrips + 1) * kOperandBytes, kBlockPlanesBytes = kPlanes * kPlaneBytes;
  static constexpr int shared_bytes = 2 * kBlockPlanesBytes + kStages * kStageBytes;
  static_assert(rows * portable::kResultStride * 4 <= kStages * kStageBytes);

  template <bool AKMajor, bool BKMajor>
  static __device__ __forceinline__ const float* multiply(portable::Operand<float, AKMajor> a,
                                                          portable::Operand<float, BKMajor> b, int k_extent,
                                                          int used_rows, char* shared) {
    return used_rows > portable::kTile ? strips<2>(a, b, k_extent, used_rows, shared)
                                       : strips<1>(a, b, k_extent, used_rows, shared);
  }

 private:
  template <int kUsed, bool AKMajor, bool BKMajor>
  static __device__ __forceinline__ const float* strips(portable::Operand<float, AKMajor> a,
                                                        portable::Operand<float, BKMajor> b, int k_extent,
                                                        int used_rows, char* shared) {
    using A = typename portable::Operand<float, AKMajor>::Tile;
    using B = typename portable::Operand<float, BKMajor>::Tile;
    static_assert(A::depth == kDepth && A::bytes == kOperandBytes && B::bytes == kOperandBytes);
    const int blocks_of_k = (k_extent + kDepth - 1) / kDepth;
    const int first = static_cast<int>(threadIdx.x) / 32 * 16;
    portable::Operand<float, AKMajor> second = a.next_tile();
    char* const stages = shared + 2 * kBlockPlanesBytes;
    const auto stage_of = [&](int block) { return stages + block % kStages * kStageBytes; };
    const auto fetch = [&](int block) {
      if (block < blocks_of_k) {
        char* const stage = stage_of(block);
        a.fetch(stage);
        if constexpr (kUsed > 1) second.fetch(stage + kOperandBytes);
        b.fetch(stage + kStrips * kOperandBytes);
      }
      commit_copies();  // an empty group too: the count of groups says which have arrived
    };
    __syncthreads();
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) fetch(s);

    float sum[kUsed][64] = {};
    Fragments left[kUsed];
    for (int block = 0; block < blocks_of_k; ++block) {
      wait_copies<kStages - 2>();
      __syncthreads();  // all threads' copies are seen; the stage fetched next and the planes are no longer
                        // read
      const char* const stage = stage_of(block);
      char* const planes = shared + block % 2 * kBlockPlanesBytes;
      const std::uint32_t right = shared_address(planes);
      read_left<A>(stage, first, left[0]);
      RightPlanes<B>::put_part(stage + kStrips * kOperandBytes, planes);
      sm90::fence_shared_for_async();
      __syncthreads();
      add_products<B, !BKMajor>(sum[0], left[0], right);
      fetch(block + kStages - 1);
      if constexpr (kUsed > 1) {
        sm90::wgmma_wait<1>();  // of the second strip, the block before
        read_left<A>(stage + kOperandBytes, first, left[1]);
        add_products<B, !BKMajor>(sum[1], left[1], right);
      }
      sm90::wgmma_wait<kUsed - 1>();  // of the first strip
    }
    sm90::wgmma_wait<0>();
    wait_copies<0>();
    bool finite = true;
#pragma unroll
    for (int strip = 0; strip < kUsed; ++strip) {
      sm90::fence_accumulator(sum[strip]);
#pragma unroll
      for (int i = 0; i < 64; ++i) finite = finite && isfinite(sum[strip][i]);
    }
    if (!__syncthreads_and(finite))
      return by_multiply_adds<kUsed>(a.rewound(blocks_of_k), b.rewound(blocks_of_k), k_extent, used_rows,
                                     shared);
    float* const result = reinterpret_cast<float*>(stages);
#pragma unroll
    for (int strip = 0; strip < kUsed; ++strip)
      put(sum[strip], result + (strip * portable::kTile + first) * portable::kResultStride);
    __syncthreads();
    return result;
  }

  /// The strips one after another, the last first; each result moves to its place behind the memory that the
  /// next one takes.
  template <int kUsed, bool AKMajor, bool BKMajor>
  static __device__ __noinline__ const float* by_multiply_adds(portable::Operand<float, AKMajor> a,
                                                               portable::Operand<float, BKMajor> b,
                                                               int k_extent, int used_rows, char* shared) {
    using Exact = portable::PortableTile<float>;
    constexpr int half = portable::kTile * portable::kResultStride / 2;  // elements that move at once
    constexpr int behind = (shared_bytes / 4 - kUsed * 2 * half) / 4 * 4;
    static_assert(behind >= half && behind + (kUsed - 1) * 2 * half >= Exact::shared_bytes / 4);
    float* const result = reinterpret_cast<float*>(shared) + behind;
#pragma unroll 1
    for (int strip = kUsed - 1; strip >= 0; --strip) {
      const float* const from = Exact::multiply(strip > 0 ? a.next_tile() : a, b, k_extent,
                                                used_rows - strip * portable::kTile, shared);
#pragma unroll 1
      for (int part = 1; part >= 0; --part) {
        for (int i = static_cast<int>(threadIdx.x) * 4; i < half; i += 4 * portable::kThreads<float>)
          *reinterpret_cast<float4*>(result + (strip * 2 + part) * half + i) =
              *reinterpret_cast<const float4*>(from + part * half + i);
        __syncthreads();
      }
    }
    return result;
  }

  /// Six products for each step of 16, those of the smallest planes first.
  template <class B, int TransposeB>
  static __device__ __forceinline__ void add_products(float (&sum)[64], const Fragments& left,
                                                      std::uint32_t right) {
    sm90::fence_accumulator(sum);
    sm90::wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int both = kPlanes - 1; both >= 0; --both)
#pragma unroll
        for (int p = both; p >= 0; --p)
          sm90::wgmma_left_in_registers<TransposeB>(
              sum, left[p][step],
              RightPlanes<B>::descriptor(right + static_cast<std::uint32_t>(both - p) * kPlaneBytes, step),
              1);
    sm90::wgmma_commit();
  }

  static __device__ __forceinline__ void put(const float (&sum)[64], float* result) {
    const int lane = threadIdx.x % 32;
    float* const mine = result + row_of_group(lane / 4) * portable::kResultStride + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 16; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(mine + half * 8 * portable::kResultStride + j * 8) = {
            sum[4 * j + 2 * half], sum[4 * j + 2 * half + 1]};
  }
};

}  // namespace moeref::cuda::planes
