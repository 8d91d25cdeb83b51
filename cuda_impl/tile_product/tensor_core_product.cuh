// A warp's part of a tile's product on tensor cores: mma.sync m16n8k16 of bfloat16, fp32 sums, K in ascending
// steps of 16.
#pragma once

#include "cuda_impl/memory/ptx_sm80.cuh"
#include "cuda_impl/tile_product/shared_tile.cuh"

namespace moeref::cuda {

/// The four 8 x 8 matrices of 16 rows (or columns) and 16 of K, from one line and chunk of a tile that this lane
/// names for the first of them. The swizzle changes the three lowest bits of a chunk by those of its line, which
/// steps of 16 lines do not touch: so steps along a line are an exclusive or, across lines a sum.
template <class Tile>
class Matrices {
 public:
  __device__ __forceinline__ Matrices(std::uint32_t tile, int line, int chunk)
      : first_(tile + Tile::offset(line, chunk)) {}

  /// `step` along the extent, `k` along K, both in 16.
  __device__ __forceinline__ void load(std::uint32_t (&v)[4], int step, int k) const {
    constexpr std::uint32_t along = 2 * 16, across = 16 * Tile::chunks * 16;
    load_matrices<!Tile::along_k>(v, Tile::along_k ? (first_ ^ k * along) + step * across
                                                   : (first_ ^ step * along) + k * across);
  }

 private:
  std::uint32_t first_;
};

/// kM rows by kN columns. Lane l holds of each 16 x 8 product rows l / 4 and 8 below, columns 2 (l mod 4) and
/// the next.
template <int kM, int kN>
struct TensorCoreProduct {
  static_assert(kM <= 64 && kN <= 64 && (kM & (kM - 1)) == 0 && (kN & (kN - 1)) == 0,
                "steps along a line do not carry");
  float sum[kM / 16][kN / 8][4] = {};

  /// The two tiles' block of K, each aligned to 128 bytes. `m`, `n`: where this part begins in them, multiples of
  /// kM and kN; of its steps of 16 rows the first
  /// `steps` are multiplied, all if kWhole.
  template <class A, class B, bool kWhole = true>
  __device__ __forceinline__ void add(std::uint32_t a_tile, std::uint32_t b_tile, int m, int n,
                                      int steps = kM / 16) {
    // Lane l names a line of 8 x 8 matrix l / 8. A's four: rows 0-7, 8-15 of K 0-7, then of K 8-15; B's: K 0-7,
    // 8-15 of columns 0-7, then of columns 8-15.
    const int lane = threadIdx.x % 32, one = lane % 8 + lane / 16 * 8, other = lane / 8 % 2;
    const Matrices<A> a_from =
        A::along_k ? Matrices<A>(a_tile, m + lane % 16, lane / 16) : Matrices<A>(a_tile, one, m / 8 + other);
    const Matrices<B> b_from =
        B::along_k ? Matrices<B>(b_tile, n + one, other) : Matrices<B>(b_tile, lane % 16, n / 8 + lane / 16);
#pragma unroll
    for (int k = 0; k < A::depth / 16; ++k) {
      std::uint32_t a[kM / 16][4];
#pragma unroll
      for (int i = 0; i < kM / 16; ++i) {
        if (!kWhole && i >= steps) break;
        a_from.load(a[i], i, k);
      }
#pragma unroll
      for (int j = 0; j < kN / 16; ++j) {
        std::uint32_t b[4];
        b_from.load(b, j, k);
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
