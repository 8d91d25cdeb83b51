// Weights stored as codes of 8 or 4 bits, [E, N, K], as the left operand of mma.sync: 64 outputs by 64 or 128
// of K at a time, 16 bytes of each output's codes per lane, which it turns into bfloat16 in its registers.
//
// Pairs for the product are codes that lie at one place of a word's halves, so that one shift serves both;
// tokens are brought into the same order. A code's bits are put where bfloat16 has its exponent's and
// fraction's ends: that number is the code's times a fixed power of two, denormals too, and products by
// powers of two are exact. Scales of one to 128 codes of an output are multiplied in bfloat16, which rounds
// once, and not at all where a scale is a power of two or e4m3; those of 128 x 128 blocks and of experts
// multiply sums in fp32.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/plain_weights.cuh"
#include "cuda_impl/quantization/format_facts.hpp"

namespace moeref::cuda::few_rows {

/// Two bfloat16 of the same bits.
__device__ __forceinline__ constexpr std::uint32_t twice(std::uint32_t bits) { return bits * 0x10001u; }
__device__ __forceinline__ std::uint32_t multiply_pairs(std::uint32_t a, std::uint32_t b) {
  return multiply_add_pairs(a, b, 0x80008000u);  // -0 keeps the sign of zeros
}

/// Two codes of a word, `j` and the one half a word behind it, times 2^-offset.
template <CodeKind kKind>
constexpr int offset = kKind == CodeKind::e2m1   ? 126
                       : kKind == CodeKind::e4m3 ? 120
                                                 : 0;
template <CodeKind kKind>
__device__ __forceinline__ std::uint32_t small_numbers(std::uint32_t word, int j) {
  if constexpr (kKind == CodeKind::int4) {
    // 128 + code, less 136.
    const std::uint32_t code = (word >> 4 * j & 0x000f000fu) | 0x43004300u;
    return multiply_add_pairs(code, twice(0x3f80), twice(0xc308));
  } else if constexpr (kKind == CodeKind::e2m1) {
    const std::uint32_t sign = word << (12 - 4 * j) & 0x80008000u,
                        size = (j < 2 ? word << (6 - 4 * j) : word >> (4 * j - 6)) & 0x01c001c0u;
    return sign | size;
  } else {
    const std::uint32_t sign = (j == 0 ? word << 8 : word) & 0x80008000u,
                        size = (j == 0 ? word << 4 : word >> 4) & 0x07f007f0u;
    return sign | size;
  }
}
/// 2^exponent as two bfloat16, of normal numbers.
__device__ __forceinline__ constexpr std::uint32_t power_pair(int exponent) {
  return twice(static_cast<std::uint32_t>(exponent + 127) << 7);
}

template <WeightFormat kFormat>
struct CodeWeights {
  using Number = __nv_bfloat16;
  static constexpr FormatFacts format = facts(kFormat);
  static constexpr int bits = format.bits(), run = 128 / bits;  // of a lane's codes
  static constexpr int depth = 4 * run;
  static constexpr int ahead = 1;  // blocks on their way while one is multiplied
  static constexpr bool scaled_by_step = format.scale == ScaleKind::float32;
  static_assert(!scaled_by_step || format.block_k % depth == 0);
  static_assert(scaled_by_step || format.block_n == 1);
  static constexpr int scales = run > format.block_k ? run / format.block_k : 1;  // of a run

  const std::uint8_t* codes;  // aligned to 16 bytes, as is each of its rows
  const void* block_scales;
  const float* expert_scales;
  int k_extent, width;

  __device__ __forceinline__ float expert_scale(int e) const {
    return format.expert_scale ? expert_scales[e] * 256.0f : 1.0f;
  }

  class Block {
   public:
    /// kWhole: scales of this block that, with the codes' power of two, bfloat16 does not hold: two products.
    template <bool kWhole>
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4], int m, int s) const {
      constexpr int in_word = bits == 4 ? 2 : 1;  // steps of 16 that a word of codes lasts
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int row = 2 * m + q % 2;
        std::uint32_t pair =
            small_numbers<format.code>(few_rows::word(codes_[row], s / in_word), s % in_word * 2 + q / 2);
        if constexpr (kWhole) pair = multiply_pairs(pair, power_pair(offset<format.code>));
        a[q] = multiply_pairs(pair, factor<kWhole>(scales_[row][s * scales / (depth / 16)]));
      }
    }
    /// The same for all lanes of the warp.
    __device__ __forceinline__ bool whole() const {
      if constexpr (format.scale == ScaleKind::e8m0) {
        std::uint32_t most = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) most = max(most, scales_[i][0]);
        return __any_sync(0xffffffffu, most + offset<format.code> > 254) != 0;
      }
      return false;
    }
    __device__ __forceinline__ float scale(int m, int below) const {
      return __uint_as_float(scales_[2 * m + below][0]);
    }

   private:
    friend struct CodeWeights;
    uint4 codes_[8];  // of every eighth output
    std::uint32_t scales_[8][scales];
  };

  class Reader {
   public:
    __device__ __forceinline__ Reader(const CodeWeights& w, int e, int first, int limit)
        : row_bytes_(static_cast<int>(std::int64_t{w.k_extent} * bits / 8)),
          blocks_((w.k_extent + format.block_k - 1) / format.block_k),
          k_(threadIdx.x % 4 * run),
          k_extent_(w.k_extent),
          first_(first + threadIdx.x % 32 / 4),
          rows_(limit - first_) {
      const std::int64_t row = std::int64_t{e} * w.width + first_;
      codes_ = w.codes + row * row_bytes_ + k_ * bits / 8;
      const int rows = (w.width + format.block_n - 1) / format.block_n;
      scales_ = static_cast<const char*>(w.block_scales) +
                (format.block_n == 1 ? row : std::int64_t{e} * rows) * blocks_ * kScaleBytes;
    }
    __device__ __forceinline__ void load(Block& to, int k) const {
      const std::uint8_t* from = codes_ + static_cast<std::int64_t>(k) * bits / 8;
      const bool inside = k + k_ < k_extent_;
#pragma unroll
      for (int i = 0; i < 8; ++i, from += 8 * row_bytes_)
        to.codes_[i] = inside && 8 * i < rows_ ? __ldcs(reinterpret_cast<const uint4*>(from)) : uint4{};
      // A scale of the step multiplies sums of all lanes, also of one that is past the end of K.
      const bool scaled = scaled_by_step ? k < k_extent_ : inside;
      const int block = (scaled_by_step ? k : k + k_) / format.block_k;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = format.block_n == 1 ? 8 * i : (first_ + 8 * i) / format.block_n;
        const char* at = scales_ + (std::int64_t{row} * blocks_ + block) * kScaleBytes;
#pragma unroll
        for (int j = 0; j < scales; ++j)
          to.scales_[i][j] = scaled && 8 * i < rows_ ? scale_bits(at + j * kScaleBytes) : 0;
      }
    }

   private:
    int row_bytes_, blocks_, k_, k_extent_, first_, rows_;
    const std::uint8_t* codes_;
    const char* scales_;
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
  static constexpr int kScaleBytes = format.scale == ScaleKind::float32    ? 4
                                     : format.scale == ScaleKind::bfloat16 ? 2
                                                                           : 1;
  /// As it is stored.
  static __device__ __forceinline__ std::uint32_t scale_bits(const char* at) {
    if constexpr (format.scale == ScaleKind::float32)
      return __float_as_uint(__ldg(reinterpret_cast<const float*>(at)));
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return __ldg(reinterpret_cast<const unsigned short*>(at));
    else
      return __ldg(reinterpret_cast<const std::uint8_t*>(at));
  }
  /// What small numbers, or with kWhole numbers, are multiplied by, as two bfloat16; of e4m3 scales 2^-8 of
  /// it, which expert_scale() makes good.
  template <bool kWhole>
  static __device__ __forceinline__ std::uint32_t factor(std::uint32_t bits) {
    if constexpr (format.scale == ScaleKind::e8m0)
      return kWhole ? twice(bits == 0 ? 0x40u : bits << 7) : twice((bits + offset<format.code>) << 7);
    else if constexpr (format.scale == ScaleKind::e4m3)
      return multiply_pairs(multiply_pairs(small_numbers<CodeKind::e4m3>(twice(bits) << 8, 1),
                                           power_pair(offset<CodeKind::e4m3>)),
                            power_pair(offset<format.code> - 8));
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return twice(bits);
    else
      return power_pair(offset<format.code>);
  }
};

}  // namespace moeref::cuda::few_rows
