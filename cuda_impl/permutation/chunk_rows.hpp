// The rows of one chunk among those that are sorted by expert.
#pragma once

#include <cstdint>

namespace moeref::cuda {

struct ChunkRows {
  const int* offsets;  // [experts, chunks], and where the last ends: see Permutation
  int experts, chunks, chunk;
  std::int64_t room;  // R, of which offsets[experts * chunks] are used

#ifdef __CUDACC__
  /// -1 for a row of another chunk, and behind the last.
  __device__ int expert_of(std::int64_t row) const {
    int first = 0, last = experts * chunks;  // offsets[first] <= row < offsets[last]
    if (row >= offsets[last]) return -1;
    while (last - first > 1) {
      const int middle = (first + last) / 2;
      (offsets[middle] <= row ? first : last) = middle;
    }
    return first % chunks == chunk ? first / chunks : -1;
  }
#endif
};

}  // namespace moeref::cuda
