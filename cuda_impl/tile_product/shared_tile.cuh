// Blocks of operands in shared memory, for products of tiles: kExtent rows or columns by 128 bytes of K.
//
// Lines are swizzled in chunks of 16 bytes (chunk ^ line mod 8), so that copies, ldmatrix and vector loads
// meet no bank twice: eight neighbouring lines keep a chunk in eight places.
#pragma once

#include <cstdint>

namespace moeref::cuda {

/// kAlongK: one line per row or column, K along it. Else one line per index of K, rows or columns along it.
template <class T, int kExtent, bool kAlongK>
struct SharedTile {
  static constexpr bool along_k = kAlongK;
  static constexpr int depth = 128 / static_cast<int>(sizeof(T)), in_chunk = 16 / static_cast<int>(sizeof(T));
  static constexpr int lines = kAlongK ? kExtent : depth, chunks = (kAlongK ? depth : kExtent) / in_chunk;
  static constexpr int bytes = lines * chunks * 16;
  static_assert(chunks >= 8, "the swizzle permutes eight chunks");

  /// Of a chunk's first byte.
  static __device__ __forceinline__ std::uint32_t offset(int line, int chunk) {
    return static_cast<std::uint32_t>(line * chunks + (chunk ^ (line & 7))) * 16;
  }
  /// Calls put(line, chunk) for each chunk that this thread of kThreads puts there.
  template <int kThreads, class Put>
  static __device__ __forceinline__ void for_chunks(const Put& put) {
    static_assert(lines * chunks % kThreads == 0);
#pragma unroll
    for (int i = 0; i < lines * chunks / kThreads; ++i) {
      const int c = static_cast<int>(threadIdx.x) + i * kThreads;
      put(c / chunks, c % chunks);
    }
  }
};

}  // namespace moeref::cuda
