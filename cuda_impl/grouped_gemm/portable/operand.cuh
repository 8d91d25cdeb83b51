// Operands of the portable products: 64 x 32 blocks of a matrix, from device memory through registers to
// shared memory, zero outside the matrix.
#pragma once

#include <cstdint>

#include "cuda_impl/memory/element.cuh"

namespace moeref::cuda::portable {

constexpr int kTile = 64, kDepth = 32, kThreads = 128;

/// Eight neighbouring elements.
template <class T>
struct Eight {
  uint4 words[sizeof(T) / 2];
};

/// row[first .. first + 7], zero from `limit` on and for a null row. `eights`: the address is aligned to 16
/// bytes and limit - first is a multiple of 8.
template <class T>
__device__ __forceinline__ Eight<T> load_eight(const T* row, std::int64_t first, std::int64_t limit,
                                               bool eights) {
  Eight<T> out{};
  if (row == nullptr || first >= limit) return out;
  if (eights) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i)
      out.words[i] = __ldg(reinterpret_cast<const uint4*>(row + first) + i);
    return out;
  }
  T elements[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) elements[i] = first + i < limit ? row[first + i] : from_float<T>(0.0f);
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 8; ++i) (&out.words[i / 4].x)[i % 4] = __float_as_uint(elements[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      (&out.words[0].x)[i] = __bfloat16_as_ushort(elements[2 * i]) |
                             std::uint32_t{__bfloat16_as_ushort(elements[2 * i + 1])} << 16;
  }
  return out;
}

/// `count` rows of a row-major matrix.
template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
  int count;

  __device__ const T* row(int i) const { return i < count ? data + std::int64_t{i} * stride : nullptr; }
};

/// Where the 64 columns of a tile lie in a row: two runs of 32, each up to its limit.
struct Columns {
  int first, first_limit, second, second_limit;
};
__device__ __forceinline__ Columns adjacent(int first, int limit) {
  return {first, limit, first + 32, limit};
}

/// KMajor: the rows are the tile's 64 rows (or columns) and K runs along them, to k_extent. Else the rows are
/// K and the tile's columns run along them.
template <class T, bool KMajor>
struct Operand {
  static constexpr int stride = KMajor ? kDepth + 16 / static_cast<int>(sizeof(T)) : kTile + 8;
  static constexpr int elements = stride * (KMajor ? kTile : kDepth);

  Rows<T> rows;
  Columns columns;  // unused when KMajor
  int k_extent;     // used when KMajor
  bool eights;

  __device__ void load(int k, Eight<T> (&out)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int group = threadIdx.x + i * kThreads;
      if constexpr (KMajor) {
        out[i] = load_eight(rows.row(group / 4), k + group % 4 * 8, k_extent, eights);
      } else {
        const int run = group % 8 / 4, at = group % 4 * 8;
        out[i] = load_eight(rows.row(k + group / 8), (run ? columns.second : columns.first) + at,
                            run ? columns.second_limit : columns.first_limit, eights);
      }
    }
  }
  static __device__ void put(T* shared, const Eight<T> (&in)[2]) {
    constexpr int groups = KMajor ? 4 : 8;  // in a row
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int group = threadIdx.x + i * kThreads;
      uint4* at = reinterpret_cast<uint4*>(shared + group / groups * stride + group % groups * 8);
#pragma unroll
      for (int w = 0; w < static_cast<int>(sizeof(T) / 2); ++w) at[w] = in[i].words[w];
    }
  }
};

}  // namespace moeref::cuda::portable
