// A warp's part of a tile's product on tensor cores: mma.sync m16n8k16, fp32 sums, K in ascending steps
// of 16.
#pragma once

#include "cuda_impl/memory/ptx_sm80.cuh"
#include "cuda_impl/tile_product/shared_tile.cuh"

namespace moeref::cuda {

/// The four 8 x 8 matrices of 16 rows (or columns) and 16 of K, of a part whose steps of 16 lie kApart steps
/// apart. Constructed from one line and chunk of a tile, which this lane names for the first step. The
/// swizzle changes the three lowest bits of a chunk by those of its line, which steps of 16 lines do not
/// touch: so steps along a line are an exclusive or, across lines a sum.
template <class Tile, int kApart>
class Matrices {
 public:
  __device__ __forceinline__ Matrices(std::uint32_t tile, int line, int chunk)
      : first_(tile + Tile::offset(line, chunk)) {}

  /// `step` along the extent, `k` along K, both in 16.
  __device__ __forceinline__ void load(std::uint32_t (&v)[4], int step, int k) const {
    const int along = Tile::along_k ? k : step * kApart, across = Tile::along_k ? step * kApart : k;
    load_matrices<!Tile::along_k>(v, (first_ ^ along * 2 * 16) + across * 16 * Tile::chunks * 16);
  }

 private:
  std::uint32_t first_;
};

/// kM rows by kN columns; steps of 16 rows lie kApart steps apart, those of columns side by side. Lane l
/// holds of each 16 x 8 product rows l / 4 and 8 below, columns 2 (l mod 4) and the next.
template <class T, int kM, int kN, int kApart = 1>
struct TensorCoreProduct {
  static_assert(kM <= 64 && kN <= 64 && (kM & (kM - 1)) == 0 && (kN & (kN - 1)) == 0,
                "steps along a line do not carry");
  static constexpr int steps = kM / 16;
  /// Operands are read one step of K ahead where so large a part leaves few warps to a multiprocessor.
  static constexpr bool ahead = kM * kN >= 64 * 64;
  float sum[steps][kN / 8][4] = {};

  /// The two tiles' block of K, each aligned to its lines. `m`, `n`: where this part begins in them,
  /// multiples of kN for columns, for rows of kM, or of 16 below 16 kApart; of its steps the first kSteps are
  /// multiplied.
  template <class A, class B, int kSteps = steps>
  __device__ __forceinline__ void add(std::uint32_t a_tile, std::uint32_t b_tile, int m, int n) {
    // Lane l names a line of 8 x 8 matrix l / 8. A's four: rows 0-7, 8-15 of K 0-7, then of K 8-15; B's: K
    // 0-7, 8-15 of columns 0-7, then of columns 8-15.
    const int lane = threadIdx.x % 32, one = lane % 8 + lane / 16 * 8, other = lane / 8 % 2;
    using FromA = Matrices<A, kApart>;
    using FromB = Matrices<B, 1>;
    const FromA a = A::along_k ? FromA(a_tile, m + lane % 16, lane / 16) : FromA(a_tile, one, m / 8 + other);
    const FromB b = B::along_k ? FromB(b_tile, n + one, other) : FromB(b_tile, lane % 16, n / 8 + lane / 16);
    struct {
      std::uint32_t a[kSteps][4], b[kN / 16][4];
    } operands[ahead ? 2 : 1];
    const auto load = [&](int k) {
      auto& to = operands[ahead ? k % 2 : 0];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) a.load(to.a[i], i, k);
#pragma unroll
      for (int j = 0; j < kN / 16; ++j) b.load(to.b[j], j, k);
    };
    constexpr int count = A::depth / 16;
    load(0);
#pragma unroll
    for (int k = 0; k < count; ++k) {
      if (ahead ? k + 1 < count : k > 0) load(ahead ? k + 1 : k);
      const auto& now = operands[ahead ? k % 2 : 0];
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
          multiply_add<T>(sum[i][j], now.a[i], now.b[j / 2][j % 2 * 2], now.b[j / 2][j % 2 * 2 + 1]);
    }
  }

  /// Row-major, kStride floats a row: no bank is met twice where kStride mod 32 is 8.
  template <int kStride>
  __device__ __forceinline__ void put(float* result, int m, int n) const {
    const int lane = threadIdx.x % 32;
    float* mine = result + (m + lane / 4) * kStride + n + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < steps; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
          *reinterpret_cast<float2*>(mine + (i * kApart * 16 + half * 8) * kStride + j * 8) = {
              sum[i][j][half * 2], sum[i][j][half * 2 + 1]};
  }
};

}  // namespace moeref::cuda
