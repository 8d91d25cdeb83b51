// A warp's part of a tile's product on tensor cores: mma.sync m16n8k16 of bfloat16, fp32 sums, K in ascending
// steps of 16.
#pragma once

#include "cuda_impl/memory/ptx_sm80.cuh"
#include "cuda_impl/tile_product/shared_tile.cuh"

namespace moeref::cuda {

/// kM rows by kN columns. Lane l holds of each 16 x 8 product rows l / 4 and 8 below, columns 2 (l mod 4) and
/// the next.
template <int kM, int kN>
struct TensorCoreProduct {
  float sum[kM / 16][kN / 8][4] = {};

  /// The two tiles' block of K. `m`, `n`: where this part begins in them; of its steps of 16 rows the first
  /// `steps` are multiplied, all if kWhole.
  template <class A, class B, bool kWhole = true>
  __device__ __forceinline__ void add(std::uint32_t a_tile, std::uint32_t b_tile, int m, int n,
                                      int steps = kM / 16) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < A::depth / 16; ++k) {
      // Lane l names a line of 8 x 8 matrix l / 8. A's four: rows 0-7, 8-15 of K 0-7, then of K 8-15.
      std::uint32_t a[kM / 16][4];
#pragma unroll
      for (int i = 0; i < kM / 16; ++i) {
        if (!kWhole && i >= steps) break;
        if constexpr (A::along_k)
          load_matrices<false>(a[i], a_tile + A::offset(m + i * 16 + lane % 16, k * 2 + lane / 16));
        else
          load_matrices<true>(
              a[i], a_tile + A::offset(k * 16 + lane % 8 + lane / 16 * 8, m / 8 + i * 2 + lane / 8 % 2));
      }
      // B's four: K 0-7, 8-15 of columns 0-7, then of columns 8-15.
#pragma unroll
      for (int j = 0; j < kN / 16; ++j) {
        std::uint32_t b[4];
        if constexpr (B::along_k)
          load_matrices<false>(
              b, b_tile + B::offset(n + j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
        else
          load_matrices<true>(
              b, b_tile + B::offset(k * 16 + lane % 8 + lane / 8 % 2 * 8, n / 8 + j * 2 + lane / 16));
#pragma unroll
        for (int i = 0; i < kM / 16; ++i) {
          if (!kWhole && i >= steps) break;
          multiply_add(sum[i][2 * j], a[i], b[0], b[1]);
          multiply_add(sum[i][2 * j + 1], a[i], b[2], b[3]);
        }
      }
    }
  }

  /// Row-major, kStride floats a row: no bank is met twice where kStride mod 32 is 8.
  template <int kStride>
  __device__ __forceinline__ void put(float* result, int m, int n) const {
    const int lane = threadIdx.x % 32;
    float* mine = result + (m + lane / 4) * kStride + n + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kM / 16; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
          *reinterpret_cast<float2*>(mine + (i * 16 + half * 8) * kStride + j * 8) = {
              sum[i][j][half * 2], sum[i][j][half * 2 + 1]};
  }
};

}  // namespace moeref::cuda
