// The gather-sum of unpermute and of expert parallelism: one block per output row, N = 8 columns per thread
// with as many rows in flight as there usually are, which leaves more threads room than eight always would;
// one column a thread where the rows' width or address does not allow eight.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda_impl/memory/element.cuh"
#include "cuda_impl/permutation/input_slots.hpp"

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

/// sum[i] += column c + i of what the token's experts that return their input add, slot by slot.
template <class T, int N>
__device__ __forceinline__ void add_input(const InputSlots& in, std::int64_t token, int width, int c,
                                          float (&sum)[N]) {
  float v[N];
  bool read = false;
  for (int j = 0; j < in.slots; ++j) {
    if (!in.has(token, j)) continue;
    if (!read) load<N>(static_cast<const T*>(in.rows) + token * width + c, v), read = true;
    const float weight = in.weights[token * in.slots + j];
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] += weight * v[i];
  }
}

/// Calls f.template operator()<InFlight>() for sums of up to `count` rows.
template <class F>
void with_rows_in_flight(int count, const F& f) {
  if (count <= 2)
    f.template operator()<2>();
  else if (count <= 4)
    f.template operator()<4>();
  else
    f.template operator()<8>();
}

/// Calls f.template operator()<WithInput, InFlight>() for sums of up to `count` rows.
template <class F>
void with_sums_of(int count, const InputSlots& in, const F& f) {
  with_rows_in_flight(count, [&]<int InFlight>() {
    if (in.experts > 0)
      f.template operator()<true, InFlight>();
    else
      f.template operator()<false, InFlight>();
  });
}

/// Threads of such a block, 512 at most, all of which have something to do as often as they go over the row.
inline int add_rows_threads(int width, bool eights) {
  const int wanted = eights ? width / 8 : width, times = (wanted + 511) / 512;
  return std::max(32, ((wanted + times - 1) / times + 31) / 32 * 32);
}

}  // namespace moeref::cuda
