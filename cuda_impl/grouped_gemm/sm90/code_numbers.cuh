// Codes to the bfloat16 that dequantize() would write, a run of 32 of an output at a time, eight of them to
// four pairs of neighbours.
//
// A code's exponent and fraction at the end of bfloat16's exponent and the beginning of its fraction are the
// number times a fixed power of two, denormals too. One product brings that and a scale that is a power of
// two into account, exactly. The integer unit, half as fast as the others, is what limits: a permutation of
// bytes takes a code and its sign, a product by 4 or 16 shifts both, a mask ends it.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/ptx.cuh"
#include "cuda_impl/quantization/format_facts.hpp"

namespace moeref::cuda::sm90 {

constexpr int kRun = 32;

__device__ __forceinline__ std::uint32_t multiply_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t c;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
__device__ __forceinline__ std::uint32_t bf16_twice(std::uint32_t bits) { return bits * 0x10001u; }
/// Each byte of four by its number in a and b, from the lowest on; 8 more: its sign in all bits.
__device__ __forceinline__ std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b,
                                                       std::uint32_t numbers) {
  std::uint32_t c;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(c) : "r"(a), "r"(b), "r"(numbers));
  return c;
}
__device__ __forceinline__ float float_of_bits(std::uint32_t bits) { return __uint_as_float(bits); }
/// Two codes of e4m3, the first in the low byte, as floats. (0x7f and 0xff are NaN.)
__device__ __forceinline__ float2 from_e4m3_pair(std::uint32_t codes) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(codes)));
  return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}

/// Pair j of the eight e2m1 or four e4m3 of a word, times 2^-kSmall<kind>.
template <CodeKind kKind>
constexpr std::uint32_t kSmall = kKind == CodeKind::e2m1 ? 126 : 120;
template <CodeKind kKind>
__device__ __forceinline__ std::uint32_t small_pair(std::uint32_t word, int j) {
  if constexpr (kKind == CodeKind::e2m1)
    return permute_bytes(word << 4, word, 0xc480 + j * 0x1111) * 4 & 0x81c081c0u;
  else
    return permute_bytes(word, 0, 0x9180 + j * 0x2222) * 16 & 0x87f087f0u;
}
/// Pair j of the eight int4 of a word.
__device__ __forceinline__ std::uint32_t int4_pair(std::uint32_t word, int j) {
  // 128 + code, less 136.
  std::uint32_t code, pair;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;"  // (a & b) | c
      : "=r"(code)
      : "r"(permute_bytes(word, word >> 4, 0x4400 + j * 0x1111)), "r"(0x000f000fu), "r"(0x43004300u));
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(code), "r"(0x3f803f80u), "r"(0xc308c308u));
  return pair;
}

/// What a run's codes are multiplied by. `scale` as stored, two of a run where a block is shorter. numbers():
/// eight codes, the run's `eight`th, of one word or two. kWhole: of scales that, with the codes' power of
/// two, bfloat16 does not hold, which takes two products.
template <WeightFormat kFormat>
class RunScale;

template <WeightFormat kFormat>
requires(facts(kFormat).scale == ScaleKind::e8m0) class RunScale<kFormat> {
  static constexpr CodeKind kind = facts(kFormat).code;

 public:
  __device__ __forceinline__ RunScale(std::uint32_t scale, float) : scale_(scale) {}
  /// Of two runs; the same for all lanes of a warp.
  static __device__ __forceinline__ bool whole(const RunScale& a, const RunScale& b) {
    return __any_sync(0xffffffffu, max(a.scale_, b.scale_) > 254 - kSmall<kind>) != 0;
  }
  template <bool kWhole>
  __device__ __forceinline__ void numbers(const std::uint32_t* words, int, std::uint32_t (&pairs)[4]) const {
    const std::uint32_t factor = bf16_twice(!kWhole       ? scale_ + kSmall<kind> << 7
                                            : scale_ == 0 ? 0x40u
                                                          : scale_ << 7);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      pairs[j] =
          kind == CodeKind::e2m1 ? small_pair<kind>(words[0], j) : small_pair<kind>(words[j / 2], j % 2);
      if constexpr (kWhole) pairs[j] = multiply_bf16(pairs[j], bf16_twice(kSmall<kind> + 127 << 7));
      pairs[j] = multiply_bf16(pairs[j], factor);
    }
  }

 private:
  std::uint32_t scale_;
};

template <WeightFormat kFormat>
requires(facts(kFormat).scale == ScaleKind::bfloat16) class RunScale<kFormat> {
 public:
  __device__ __forceinline__ RunScale(std::uint32_t scale, float) : factor_(bf16_twice(scale)) {}
  static __device__ __forceinline__ bool whole(const RunScale&, const RunScale&) { return false; }
  template <bool>
  __device__ __forceinline__ void numbers(const std::uint32_t* words, int, std::uint32_t (&pairs)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) pairs[j] = multiply_bf16(int4_pair(words[0], j), factor_);
  }

 private:
  std::uint32_t factor_;
};

template <WeightFormat kFormat>
requires(facts(kFormat).scale == ScaleKind::float32) class RunScale<kFormat> {
 public:
  __device__ __forceinline__ RunScale(std::uint32_t scale, float) : factor_(float_of_bits(scale)) {}
  static __device__ __forceinline__ bool whole(const RunScale&, const RunScale&) { return false; }
  template <bool>
  __device__ __forceinline__ void numbers(const std::uint32_t* words, int, std::uint32_t (&pairs)[4]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 v = from_e4m3_pair(words[j / 2] >> j % 2 * 16);
      pairs[j] = pack_bf16(v.x * factor_, v.y * factor_);
    }
  }

 private:
  float factor_;
};

/// The eight sizes of a code times both scales, rounded in fp32 and then to bfloat16, by byte: the lower ones
/// and the upper ones of two numbers at a time can be looked up by a permutation.
template <WeightFormat kFormat>
requires(facts(kFormat).scale == ScaleKind::e4m3) class RunScale<kFormat> {
 public:
  __device__ __forceinline__ RunScale(std::uint32_t scales, float of_expert) {
    const float2 both = from_e4m3_pair(scales);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float factor = half == 0 ? both.x : both.y;
      const auto size = [&](float of_code) { return of_code * factor * of_expert; };
      const std::uint32_t sizes[4] = {pack_bf16(size(0.0f), size(0.5f)), pack_bf16(size(1.0f), size(1.5f)),
                                      pack_bf16(size(2.0f), size(3.0f)), pack_bf16(size(4.0f), size(6.0f))};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        low_[half][i] = permute_bytes(sizes[2 * i], sizes[2 * i + 1], 0x6420);
        high_[half][i] = permute_bytes(sizes[2 * i], sizes[2 * i + 1], 0x7531);
      }
    }
  }
  static __device__ __forceinline__ bool whole(const RunScale&, const RunScale&) { return false; }
  template <bool>
  __device__ __forceinline__ void numbers(const std::uint32_t* words, int eight,
                                          std::uint32_t (&pairs)[4]) const {
    const std::uint32_t word = words[0], sizes = word & 0x77777777u, *low = low_[eight / 2],
                        *high = high_[eight / 2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t four = i == 0 ? sizes : sizes >> 16,
                          signs = permute_bytes(word << 4, word, i == 0 ? 0x5140 : 0x7362) & 0x80808080u,
                          l = permute_bytes(low[0], low[1], four),
                          h = permute_bytes(high[0], high[1], four) ^ signs;
      pairs[2 * i] = permute_bytes(l, h, 0x5140);
      pairs[2 * i + 1] = permute_bytes(l, h, 0x7362);
    }
  }

 private:
  std::uint32_t low_[2][2], high_[2][2];
};

}  // namespace moeref::cuda::sm90
