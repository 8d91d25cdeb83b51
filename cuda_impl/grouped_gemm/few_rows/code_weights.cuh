// Weights stored as codes of 8 or 4 bits, [E, N, K], as the left operand of mma.sync: 64 outputs by 64 or 128
// of K at a time, 16 bytes of each output's codes per lane, which it turns into bfloat16 in its registers.
//
// Pairs for the product are codes that lie at one place of a word's halves, so that one shift serves both;
// tokens are brought into the same order. A code's bits are put where bfloat16 has its exponent's and
// fraction's ends: that number is the code's times a fixed power of two, denormals too, and products by powers
// of two are exact. Scales of one to 128 codes of an output are multiplied in bfloat16, which rounds once, and
// not at all where a scale is a power of two or e4m3; those of 128 x 128 blocks and of experts multiply sums in
// fp32.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/plain_weights.cuh"
#include "cuda_impl/quantization/format_facts.hpp"

namespace moeref::cuda::few_rows {

/// Two bfloat16 of the same bits.
__device__ __forceinline__ constexpr std::uint32_t twice(std::uint32_t bits) { return bits * 0x10001u; }
__device__ __forceinline__ std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
  return multiply_add_pairs(a, b, 0x80008000u);  // -0 keeps the sign of zeros
}

/// Two codes of a word: `j` and the one half of a word behind it.
template <CodeKind kKind>
__device__ __forceinline__ std::uint32_t numbers(std::uint32_t word, int j) {
  if constexpr (kKind == CodeKind::int4) {
    // 128 + code, less 136.
    const std::uint32_t code = (word >> 4 * j & 0x000f000fu) | 0x43004300u;
    return multiply_add_pairs(code, twice(0x3f80), twice(0xc308));
  } else if constexpr (kKind == CodeKind::e2m1) {
    const std::uint32_t sign = word << (12 - 4 * j) & 0x80008000u,
                        size = (j < 2 ? word << (6 - 4 * j) : word >> (4 * j - 6)) & 0x01c001c0u;
    return multiply_pairs(sign | size, twice(0x7e80));  // 2^126
  } else {
    const std::uint32_t high = j == 0 ? word << 8 : word;
    return multiply_pairs((high & 0x80008000u) | (high >> 4 & 0x07f007f0u), twice(0x7b80));  // 2^120
  }
}

template <WeightFormat kFormat>
struct CodeWeights {
  using Number = __nv_bfloat16;
  static constexpr FormatFacts format = facts(kFormat);
  static constexpr int bits = format.bits(), run = 128 / bits;  // of a lane's codes
  static constexpr int depth = 4 * run;
  static constexpr bool scaled_by_step = format.scale == ScaleKind::float32;
  static_assert(!scaled_by_step || format.block_k % depth == 0);
  static_assert(scaled_by_step || format.block_n == 1);
  static constexpr int scales = run > format.block_k ? run / format.block_k : 1;  // of a run

  const std::uint8_t* codes;  // aligned to 16 bytes, as is each of its rows
  const void* block_scales;
  const float* expert_scales;
  int k_extent, width;

  __device__ __forceinline__ float expert_scale(int e) const {
    return format.expert_scale ? expert_scales[e] : 1.0f;
  }

  class Block {
   public:
    __device__ __forceinline__ void load(const CodeWeights& w, int e, int first, int limit, int k) {
      const int lane = threadIdx.x % 32, mine = k + lane % 4 * run;
      const std::int64_t bytes = std::int64_t{w.k_extent} * bits / 8;
#pragma unroll
      for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int below = 0; below < 2; ++below) {
          const int n = first + column(m, below);
          const bool valid = mine < w.k_extent && n < limit;
          const std::int64_t row = std::int64_t{e} * w.width + n;
          codes_[m][below] = valid ? __ldcs(reinterpret_cast<const uint4*>(
                                         w.codes + row * bytes + mine * bits / 8))
                                   : uint4{};
#pragma unroll
          for (int i = 0; i < scales; ++i) {
            // A scale of the step multiplies sums of all lanes, also of one that is past the end of K.
            const int at = scaled_by_step ? k : mine + i * format.block_k;
            scales_[m][below][i] = at < w.k_extent && n < limit ? w.scale_bits(e, n, at) : 0;
          }
        }
    }
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int m, int s) const {
      constexpr int in_word = bits == 4 ? 2 : 1;  // steps of 16 that a word of codes lasts
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const std::uint32_t pair =
            numbers<format.code>(few_rows::word(codes_[m][q % 2], s / in_word), s % in_word * 2 + q / 2);
        a[q] = scaled_by_step ? pair : multiply_pairs(pair, factor(scales_[m][q % 2][s * scales / (depth / 16)]));
      }
    }
    __device__ __forceinline__ float scale(int m, int below) const {
      return __uint_as_float(scales_[m][below][0]);
    }

   private:
    uint4 codes_[4][2];
    std::uint32_t scales_[4][2][scales];
  };

  static __device__ __forceinline__ int column(int m, int below) {
    return m * 16 + threadIdx.x % 32 / 4 + below * 8;
  }
  static __device__ __forceinline__ uint4 arranged(const uint4& t) {
    if constexpr (bits == 4)
      return {first_of(t.x, t.z), second_of(t.x, t.z), first_of(t.y, t.w), second_of(t.y, t.w)};
    else
      return {first_of(t.x, t.y), second_of(t.x, t.y), first_of(t.z, t.w), second_of(t.z, t.w)};
  }

 private:
  /// As it is stored.
  __device__ __forceinline__ std::uint32_t scale_bits(int e, int n, int k) const {
    const int rows = (width + format.block_n - 1) / format.block_n,
              blocks = (k_extent + format.block_k - 1) / format.block_k;
    const std::int64_t i = (std::int64_t{e} * rows + n / format.block_n) * blocks + k / format.block_k;
    if constexpr (format.scale == ScaleKind::float32)
      return __float_as_uint(__ldg(static_cast<const float*>(block_scales) + i));
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return __ldg(static_cast<const unsigned short*>(block_scales) + i);
    else
      return __ldg(static_cast<const std::uint8_t*>(block_scales) + i);
  }
  /// Twice in bfloat16.
  static __device__ __forceinline__ std::uint32_t factor(std::uint32_t bits) {
    if constexpr (format.scale == ScaleKind::e8m0)
      return twice(bits == 0 ? 0x40u : bits << 7);
    else if constexpr (format.scale == ScaleKind::e4m3)
      return numbers<CodeKind::e4m3>(twice(bits) << 8, 1);
    else
      return twice(bits);
  }
};

}  // namespace moeref::cuda::few_rows
