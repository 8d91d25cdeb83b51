// Elements of device arrays as fp32 numbers, one or eight at a time, and the choice of the type at run time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16(v);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float v) {
  return __float2half_rn(v);
}

/// N neighbouring elements as they lie in memory; N is 1 or 8, and 8 need an address aligned to 16 bytes.
template <int N, class T>
struct Packed {
  static_assert(N == 1 || N == 8);
  static constexpr int words = N == 8 ? sizeof(T) / 2 : 0;  // of 16 bytes
  uint4 word[words > 0 ? words : 1] = {};
  T one = {};

  __device__ __forceinline__ void load(const T* p) {
    if constexpr (N == 1) one = *p;
#pragma unroll
    for (int i = 0; i < words; ++i) word[i] = __ldcs(reinterpret_cast<const uint4*>(p) + i);
  }
  __device__ __forceinline__ void unpack(float (&v)[N]) const {
    if constexpr (N == 1) {
      v[0] = to_float(one);
    } else if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < words; ++i) {
        v[4 * i] = __uint_as_float(word[i].x), v[4 * i + 1] = __uint_as_float(word[i].y);
        v[4 * i + 2] = __uint_as_float(word[i].z), v[4 * i + 3] = __uint_as_float(word[i].w);
      }
    } else if constexpr (std::is_same_v<T, __half>) {
      const T* elements = reinterpret_cast<const T*>(word);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = to_float(elements[i]);
    } else {
      const std::uint32_t pairs[4] = {word[0].x, word[0].y, word[0].z, word[0].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[2 * i] = __uint_as_float(pairs[i] << 16);
        v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
      }
    }
  }
};

template <int N, class T>
__device__ __forceinline__ void load(const T* p, float (&v)[N]) {
  Packed<N, T> packed;
  packed.load(p);
  packed.unpack(v);
}
template <int N, class T>
__device__ __forceinline__ void store(T* p, const float (&v)[N]) {
  static_assert(N == 1 || N == 8);
  if constexpr (N == 1) {
    *p = from_float<T>(v[0]);
  } else {
    constexpr int words = sizeof(T) / 2;
    uint4 raw[words];
    T* elements = reinterpret_cast<T*>(raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) elements[i] = from_float<T>(v[i]);
#pragma unroll
    for (int i = 0; i < words; ++i) reinterpret_cast<uint4*>(p)[i] = raw[i];
  }
}

/// Calls f.template operator()<T>() with the type's own C++ type.
template <class F>
void with_type(DataType type, const F& f) {
  if (type == DataType::float32)
    f.template operator()<float>();
  else if (type == DataType::float16)
    f.template operator()<__half>();
  else
    f.template operator()<__nv_bfloat16>();
}

/// Whether matrices of rows of `width` elements may be read eight at a time from these addresses.
template <class... P>
bool in_eights(std::int64_t width, P... pointers) {
  return width % 8 == 0 && ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace moeref::cuda
