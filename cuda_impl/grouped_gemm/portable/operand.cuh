// Operands of the portable products: blocks of a matrix from device memory to shared memory, zero outside the
// matrix.
#pragma once

#include "cuda_impl/memory/ptx_sm80.cuh"
#include "cuda_impl/tile_product/shared_tile.cuh"

namespace moeref::cuda::portable {

constexpr int kTile = 128;
/// Of a block. 16-bit types: four warps of 64 x 64, which read the least from shared memory per product.
template <class T>
constexpr int kThreads = sizeof(T) == 2 ? 128 : 256;

/// `count` rows of a row-major matrix.
template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
  int count;
};

/// Where the columns of a tile lie in a row: two runs of kTile / 2, each up to its limit.
struct Columns {
  int first, first_limit, second, second_limit;
};
__device__ __forceinline__ Columns adjacent(int first, int limit) {
  return {first, limit, first + kTile / 2, limit};
}

/// One thread's copies of an operand, block of K after block of K. KMajor: the rows are the tile's rows (or
/// columns) and K runs along them. Else the rows are K and the tile's columns run along them. `eights`: rows
/// and runs of columns begin at 16 bytes and end at whole eights.
///
/// The thread's chunks of a block lie kApart lines below each other, at one place of the swizzle. So one
/// address that moves on, and counts of what is left of the matrix, are all that a block needs.
template <class T, bool KMajor>
class Operand {
 public:
  using Tile = SharedTile<T, kTile, KMajor>;

  __device__ __forceinline__ Operand(const Rows<T>& rows, int k_extent, bool eights) requires KMajor
      : Operand(rows, at(), k_extent, eights) {}
  __device__ __forceinline__ Operand(const Rows<T>& rows, const Columns& c, bool eights) requires(!KMajor)
      : Operand(rows, at() < kTile / 2 ? c.first + at() : c.second + at() - kTile / 2,
                at() < kTile / 2 ? c.first_limit : c.second_limit, eights) {}

  /// The next block. What is copied arrives with the group that is committed next; what is not in eights is
  /// there after the next barrier.
  __device__ __forceinline__ void fetch(char* block) {
    if (eights_) {
      const std::uint32_t to = shared_address(block) + place_;
#pragma unroll
      for (int i = 0; i < kCopies; ++i)
        copy_async(to + i * kBytesApart, from_ + i * apart_, i * kApart < lines_ && 0 < elements_);
    } else {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        uint4 word{};
        T* elements = reinterpret_cast<T*>(&word);
#pragma unroll
        for (int j = 0; j < Tile::in_chunk; ++j)
          if (i * kApart < lines_ && j < elements_) elements[j] = from_[i * apart_ + j];
        *reinterpret_cast<uint4*>(block + place_ + i * kBytesApart) = word;
      }
    }
    from_ += next_;
    (KMajor ? elements_ : lines_) -= Tile::depth;
  }

  /// The same from the beginning, after `blocks` blocks.
  __device__ __forceinline__ Operand rewound(int blocks) const {
    Operand again = *this;
    again.from_ -= blocks * next_;
    (KMajor ? again.elements_ : again.lines_) += blocks * Tile::depth;
    return again;
  }

  /// The same of the next kTile rows, or of the next columns where these are adjacent.
  __device__ __forceinline__ Operand next_tile() const {
    Operand next = *this;
    next.from_ += KMajor ? kTile / kApart * apart_ : std::int64_t{kTile};
    (KMajor ? next.lines_ : next.elements_) -= kTile;
    return next;
  }

 private:
  static constexpr int kApart = kThreads<T> / Tile::chunks, kCopies = Tile::lines / kApart;
  static constexpr int kBytesApart = kApart * Tile::chunks * 16;
  static_assert(kApart % 8 == 0, "the swizzle turns by lines mod 8");

  __device__ __forceinline__ Operand(const Rows<T>& rows, int first, int limit, bool eights)
      : from_(rows.data + line() * rows.stride + first),
        apart_(kApart * rows.stride),
        next_(KMajor ? Tile::depth : Tile::depth * rows.stride),
        lines_(rows.count - line()),
        elements_(limit - first),
        place_(Tile::offset(line(), chunk())),
        eights_(eights) {}

  // Of the thread's first chunk.
  static __device__ __forceinline__ int line() { return static_cast<int>(threadIdx.x / Tile::chunks); }
  static __device__ __forceinline__ int chunk() { return static_cast<int>(threadIdx.x % Tile::chunks); }
  static __device__ __forceinline__ int at() { return chunk() * Tile::in_chunk; }

  const T* from_;              // the next block's first chunk
  std::int64_t apart_, next_;  // elements from chunk to chunk, and from block to block
  int lines_, elements_;       // left of the matrix from there on
  std::uint32_t place_;
  bool eights_;
};

}  // namespace moeref::cuda::portable
