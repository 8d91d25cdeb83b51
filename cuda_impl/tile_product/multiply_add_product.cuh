// A warp's part of a tile's product without tensor cores: each sum is one chain of fp32 fused multiply-adds,
// K ascending.
#pragma once

#include "cuda_impl/tile_product/shared_tile.cuh"

namespace moeref::cuda {

/// 64 rows by 32 columns, 8 x 8 of them a lane: of 8 x 4 lanes, (lane mod 8, lane / 8). Which rows and
/// columns a lane has follows from how the operands lie, so that lanes read neighbouring lines, or 16 bytes
/// of one line.
template <bool kAAlongK, bool kBAlongK>
struct MultiplyAddProduct {
  float sum[8][8] = {};

  static __device__ __forceinline__ int row(int i) {
    const int lane = threadIdx.x % 8;
    return kAAlongK ? lane + 8 * i : lane * 4 + i % 4 + i / 4 * 32;
  }
  static __device__ __forceinline__ int column(int i) {
    const int lane = threadIdx.x % 32 / 8;
    return kBAlongK ? lane + 4 * i : lane * 4 + i % 4 + i / 4 * 16;
  }

  /// Elements k and k + 1 of eight rows or columns from `first` on.
  template <class Tile, class Index>
  static __device__ __forceinline__ void load(float (&v)[2][8], const char* tile, int first, int k,
                                              const Index& index) {
    if constexpr (Tile::along_k) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 pair =
            *reinterpret_cast<const float2*>(tile + Tile::offset(first + index(i), k / 4) + k % 4 * 4);
        v[0][i] = pair.x, v[1][i] = pair.y;
      }
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float4 four =
            *reinterpret_cast<const float4*>(tile + Tile::offset(k + j / 2, (first + index(j % 2 * 4)) / 4));
        float* to = &v[j / 2][j % 2 * 4];
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
      }
    }
  }

  /// The two tiles' block of K; `m`, `n`: where this part begins in them.
  template <class A, class B>
  __device__ __forceinline__ void add(const char* a_tile, const char* b_tile, int m, int n) {
    static_assert(A::along_k == kAAlongK && B::along_k == kBAlongK);
#pragma unroll 4
    for (int k = 0; k < A::depth; k += 2) {
      float a[2][8], b[2][8];
      load<A>(a, a_tile, m, k, row);
      load<B>(b, b_tile, n, k, column);
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
          for (int j = 0; j < 8; ++j) sum[i][j] = __fmaf_rn(a[step][i], b[step][j], sum[i][j]);
    }
  }

  template <int kStride>
  __device__ __forceinline__ void put(float* result, int m, int n) const {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) result[(m + row(i)) * kStride + n + column(j)] = sum[i][j];
  }
};

}  // namespace moeref::cuda
