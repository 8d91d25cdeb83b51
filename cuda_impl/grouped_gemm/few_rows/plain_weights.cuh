// Weights stored as numbers of 16 bits, [E, K, N] row-major, as the left operand of mma.sync: 64 columns by
// 32 of K at a time, from device memory into a warp's registers without shared memory between.
#pragma once

#include "cuda_impl/memory/ptx_sm80.cuh"

namespace moeref::cuda::few_rows {

/// Which of the four 32-bit words.
__device__ __forceinline__ std::uint32_t word(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}
/// Of two pairs of 16-bit elements the first ones, and the second ones.
__device__ __forceinline__ std::uint32_t first_of(std::uint32_t a, std::uint32_t b) {
  return __byte_perm(a, b, 0x5410);
}
__device__ __forceinline__ std::uint32_t second_of(std::uint32_t a, std::uint32_t b) {
  return __byte_perm(a, b, 0x7632);
}

/// Columns of a warp: 16 of each of its four products.
constexpr int kColumns = 64;

/// The matrices, as kernels get them. `width` and `k_extent` are multiples of 8, data is aligned to 16 bytes.
template <class T>
struct PlainWeights {
  using Number = T;
  static constexpr int depth = 32;  // of K at a time
  static constexpr int ahead = 2;   // blocks on their way while one is multiplied
  static constexpr bool scaled_by_step = false;

  const T* data;
  int k_extent, width;

  /// One lane's part of a block. Its K are the eight from 8 (lane % 4) on, its columns the eight from
  /// 8 (lane / 4) on: rows of 128 bytes are read whole by eight lanes.
  class Block {
   public:
    /// For product m of the four and the s-th 16 of K, which are the lane's from 4 s on.
    template <bool>
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int m, int s) const {
      const std::uint32_t r0 = word(rows_[4 * s], m), r1 = word(rows_[4 * s + 1], m),
                          r2 = word(rows_[4 * s + 2], m), r3 = word(rows_[4 * s + 3], m);
      a[0] = first_of(r0, r1), a[1] = second_of(r0, r1);
      a[2] = first_of(r2, r3), a[3] = second_of(r2, r3);
    }

    __device__ __forceinline__ bool whole() const { return false; }

   private:
    friend struct PlainWeights;
    uint4 rows_[8];
  };

  /// Reads columns first .. first + 63 of expert e, zeros from `limit` on.
  class Reader {
   public:
    __device__ __forceinline__ Reader(const PlainWeights& w, int e, int first, int limit)
        : rows_(w.k_extent - threadIdx.x % 4 * 8), width_(w.width) {
      const int column = first + threadIdx.x % 32 / 4 * 8;
      if (column >= limit) rows_ = 0;
      from_ = w.data + (std::int64_t{e} * w.k_extent + threadIdx.x % 4 * 8) * w.width + column;
    }
    /// The rows of K from k on.
    __device__ __forceinline__ void load(Block& to, int k) const {
      const T* from = from_ + std::int64_t{k} * width_;
#pragma unroll
      for (int r = 0; r < 8; ++r, from += width_)
        to.rows_[r] = k < rows_ ? __ldcs(reinterpret_cast<const uint4*>(from)) : uint4{};
    }

   private:
    const T* from_;
    int rows_, width_;
  };

  /// The column of the 64 that row lane / 4 of product m is, or the one 8 below it.
  static __device__ __forceinline__ int column(int m, int below) {
    return threadIdx.x % 32 / 4 * 8 + 2 * m + below;
  }
  /// Eight of a token's elements in the order of K that fragments have.
  static __device__ __forceinline__ uint4 arranged(const uint4& tokens) { return tokens; }
  __device__ __forceinline__ float expert_scale(int) const { return 1.0f; }
};

}  // namespace moeref::cuda::few_rows
