// The gather-sum of combine and of expert parallelism: one block an output row, N = 8 columns a thread with
// as many rows in flight as there usually are, which leaves more threads room than eight always would; one
// column a thread where the rows' width or address does not allow eight.
#pragma once

#include <algorithm>
#include <cstdint>

#include "memory/element.cuh"

namespace moeref::cuda {

/// sum[i] += column c + i of the rows row_of(0), ..., row_of(count - 1) of `rows` [.., width], in this order
/// and in fp32, InFlight of them at a time; -1: no row.
template <int InFlight = 8, class T, int N, class RowOf>
__device__ __forceinline__ void add_rows(const T* __restrict__ rows, int width, int count, int c,
                                         const RowOf& row_of, float (&sum)[N]) {
  for (int first = 0; first < count; first += InFlight) {
    Packed<N, T> packed[InFlight];
#pragma unroll
    for (int j = 0; j < InFlight; ++j) {
      const std::int64_t row = first + j < count ? row_of(first + j) : -1;
      if (row >= 0) packed[j].load(rows + row * width + c);
    }
#pragma unroll
    for (int j = 0; j < InFlight; ++j) {
      float v[N];
      packed[j].unpack(v);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += v[i];
    }
  }
}

/// Threads of such a block.
inline int add_rows_threads(int width, bool eights) {
  return std::min(512, ((eights ? width / 8 : width) + 31) / 32 * 32);
}

}  // namespace moeref::cuda
