// Operands of the portable products: blocks of a matrix from device memory to shared memory, zero outside the
// matrix.
#pragma once

#include "cuda_impl/memory/eight.cuh"
#include "cuda_impl/memory/ptx_sm80.cuh"
#include "cuda_impl/tile_product/shared_tile.cuh"

namespace moeref::cuda::portable {

constexpr int kTile = 128, kThreads = 256;

/// `count` rows of a row-major matrix.
template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
  int count;

  __device__ const T* row(int i) const { return i < count ? data + std::int64_t{i} * stride : nullptr; }
};

/// Where the columns of a tile lie in a row: two runs of kTile / 2, each up to its limit.
struct Columns {
  int first, first_limit, second, second_limit;
};
__device__ __forceinline__ Columns adjacent(int first, int limit) {
  return {first, limit, first + kTile / 2, limit};
}

/// KMajor: the rows are the tile's rows (or columns) and K runs along them, to k_extent. Else the rows are K
/// and the tile's columns run along them. `eights`: rows and runs of columns begin at 16 bytes and end at
/// whole eights.
template <class T, bool KMajor>
struct Operand {
  using Tile = SharedTile<T, kTile, KMajor>;

  Rows<T> rows;
  Columns columns;  // unused when KMajor
  int k_extent;     // used when KMajor
  bool eights;

  /// The block from k on. What is copied arrives with the group that is committed next; what is not in eights
  /// is there after the next barrier.
  __device__ __forceinline__ void fetch(char* to, int k) const {
    const std::uint32_t base = shared_address(to);
    Tile::template for_chunks<kThreads>([&](int line, int chunk) {
      const int at = chunk * Tile::in_chunk;
      const T* row;
      int first, limit;
      if constexpr (KMajor) {
        row = rows.row(line), first = k + at, limit = k_extent;
      } else {
        const bool second = at >= kTile / 2;
        row = rows.row(k + line), first = second ? columns.second + at - kTile / 2 : columns.first + at;
        limit = second ? columns.second_limit : columns.first_limit;
      }
      const bool there = row != nullptr && first < limit;
      if (eights) {
        copy_async(base + Tile::offset(line, chunk), there ? row + first : rows.data, there);
      } else {
        uint4 word{};
        T* elements = reinterpret_cast<T*>(&word);
#pragma unroll
        for (int i = 0; i < Tile::in_chunk; ++i)
          if (there && first + i < limit) elements[i] = row[first + i];
        *reinterpret_cast<uint4*>(to + Tile::offset(line, chunk)) = word;
      }
    });
  }
};

}  // namespace moeref::cuda::portable
