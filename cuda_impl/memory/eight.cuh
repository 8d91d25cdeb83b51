// Eight neighbouring elements of a row as fp32 numbers, where rows may be of any width and alignment.
#pragma once

#include "cuda_impl/memory/element.cuh"

namespace moeref::cuda {

/// v = row[first .. first + 7], of which those from `limit` on are left as they are. `eights`: the address is
/// aligned to 16 bytes and limit - first is a multiple of 8.
template <class T>
__device__ __forceinline__ void load_eight(const T* row, std::int64_t first, std::int64_t limit, bool eights,
                                           float (&v)[8]) {
  if (eights) {
    if (first < limit) load<8>(row + first, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (first + i < limit) v[i] = to_float(row[first + i]);
}

/// row[first .. first + 7] = v, up to `limit`.
template <class T>
__device__ __forceinline__ void store_eight(T* row, std::int64_t first, std::int64_t limit, bool eights,
                                            const float (&v)[8]) {
  if (eights) {
    if (first < limit) store<8>(row + first, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (first + i < limit) row[first + i] = from_float<T>(v[i]);
}

}  // namespace moeref::cuda
