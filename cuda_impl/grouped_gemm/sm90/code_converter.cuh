// Weights stored as codes, from the slots that code_feeder.cuh has filled to operand A of a token product:
// eight warps turn 64 of K of a strip at a time into the bfloat16 that dequantize() would write, and put these
// where TMA puts numbers, so that both give the same bits.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/code_feeder.cuh"

namespace moeref::cuda::sm90 {

constexpr int kConverterWarps = 11;
constexpr int kRun = 32;  // codes of a thread
static_assert(kStripParts * 32 * kRun == kStrip * kBlockK);

__device__ __forceinline__ std::uint32_t multiply_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t c;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}
__device__ __forceinline__ std::uint32_t bf16_twice(std::uint32_t bits) { return bits * 0x10001u; }
/// Two codes of e4m3, the first in the low byte, as floats. (0x7f and 0xff are NaN.)
__device__ __forceinline__ float2 from_e4m3_pair(std::uint32_t codes) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(codes)));
  return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}
/// Eight codes of e2m1 or int4, the first in the lowest bits, as bfloat16.
template <CodeKind kKind>
__device__ __forceinline__ void from_nibbles(std::uint32_t word, std::uint32_t (&pairs)[4]) {
  const std::uint32_t even = word & 0x0f0f0f0fu, odd = word >> 4 & 0x0f0f0f0fu;
  const std::uint32_t both[2] = {__byte_perm(even, odd, 0x5140), __byte_perm(even, odd, 0x7362)};
  if constexpr (kKind == CodeKind::int4) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      // 128 + code, less 136.
      const std::uint32_t code = __byte_perm(both[j / 2], 0x43434343u, j % 2 == 0 ? 0x4140 : 0x4342);
      asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pairs[j]) : "r"(code), "r"(0x3f803f80u), "r"(0xc308c308u));
    }
  } else {
    // A code's size at the end of bfloat16's exponent and the beginning of its fraction is the number times
    // 2^-126; a product brings code there and its sign to the sign, without the integer unit.
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t code = __byte_perm(both[j / 2], 0, j % 2 == 0 ? 0x4140 : 0x4342);
      pairs[j] = multiply_bf16(code * 0x1040u & 0x81c081c0u, 0x7e807e80u);  // 2^126
    }
  }
}

/// One of Layout::converters warps. They take the parts of the stages in turn, 16 rows each.
template <class Layout, WeightFormat kFormat>
class CodeConverter {
  using Slot = CodeSlot<kFormat>;
  static constexpr FormatFacts format = Slot::format;
  static constexpr int kBits = Slot::bits, kCopies = kRun * kBits / 8 / 16;
  static_assert(Layout::strips == 1);

 public:
  /// A lane has half of a row; their order keeps eight lanes to banks of their own, in a slot and in a stage.
  __device__ __forceinline__ CodeConverter(const CodeSource& w, std::uint32_t base, int warp)
      : w_(w),
        base_(base),
        part_(warp),
        row_(threadIdx.x % 32 / 2 ^ (threadIdx.x % 32 / 2 & 2) << 1),
        half_(threadIdx.x % 2) {
    pipe_.phase = 1;  // the first pass over the stages finds them empty
  }

  /// The warp's parts of a strip. first_part(kb, stage) is called by all lanes of the warp that has the first
  /// part of a stage, when it may be filled.
  template <class FirstPart>
  __device__ __forceinline__ void convert_strip(int e, const StripRows& rows, int k_blocks,
                                                const FirstPart& first_part) {
    const int slots = (k_blocks + Slot::stages - 1) / Slot::stages, parts = slots * Slot::stages * kStripParts;
    const auto scales =
        static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(scales_of<kFormat>(w_, e, 0)));
    const int scale_row = (w_.k + format.block_k - 1) / format.block_k * Slot::scale_size;
    PipelineState<Layout> pipe = pipe_;
    PipelineState<Layout, Layout::code_slots> slot = slots_;
    for (int at = 0; part_ < parts; part_ += Layout::converters) {
      const int kb = part_ / kStripParts, row = part_ % kStripParts * 16 + row_;
      pipe.advance(kb - at);
      slot.advance(kb / Slot::stages - at / Slot::stages);
      at = kb;
      const std::uint32_t from = Layout::code_slot(base_, slot.stage), full = Layout::full(base_, pipe.stage);
      mbarrier_wait(Layout::code_full(base_, slot.stage), slot.phase);
      if (kb < k_blocks) {
        const Run run = load(from, row, kb, scales + rows.output(row) / format.block_n * scale_row);
        const float of_expert =
            format.expert_scale ? __int_as_float(load_shared_word(from + Slot::expert_scale_at)) : 1.0f;
        mbarrier_wait(Layout::empty(base_, pipe.stage), pipe.phase);
        if (part_ % kStripParts == 0) first_part(kb, pipe.stage);
        convert(run, Layout::a(base_, pipe.stage), row, of_expert);
        fence_shared_for_async();
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(full);
      }
      if (threadIdx.x % 32 == 0)
        mbarrier_arrive(Layout::code_empty(base_, slot.stage), kSlotParts / (kStripParts * Slot::stages));
    }
    part_ -= parts;
    pipe_.advance(k_blocks);
    slots_.advance(slots);
  }

 private:
  struct Run {
    uint4 codes[kCopies];
    std::uint32_t scale;
  };

  /// Beyond K codes are 0, whatever the scales there, which must not be infinite.
  __device__ __forceinline__ Run load(std::uint32_t slot, int row, int kb, std::uint32_t scales) const {
    Run to;
    const std::uint32_t codes = slot + row * kCodeRowBytes;
    const int first = (kb % Slot::stages * 2 + half_) * kCopies;
#pragma unroll
    for (int c = 0; c < kCopies; ++c)
      to.codes[c] = load_shared(codes + (((first + c) ^ (row / 2 & 3)) << 4));
    to.scale = kb * kBlockK + half_ * kRun < w_.k ? load_scale(slot, row, kb, scales) : 0;
    return to;
  }

  /// As stored, two of a run where a block is shorter. `scales`: where the row's lie in device memory, of
  /// which the last bits count, as whole words have been copied.
  __device__ __forceinline__ std::uint32_t load_scale(std::uint32_t slot, int row, int kb,
                                                      std::uint32_t scales) const {
    const int i = kb % Slot::stages;
    const std::uint32_t shift = (scales + (kb - i) * kBlockK / format.block_k * Slot::scale_size) & 3,
                        at = slot + Slot::scales_at + row * Slot::scale_pitch + shift +
                             (i * kBlockK + half_ * kRun) / format.block_k * Slot::scale_size;
    if constexpr (format.scale == ScaleKind::float32)
      return load_shared_word(at);
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return load_shared_half(at);
    else if constexpr (format.block_k < kRun)
      return load_shared_byte(at) | load_shared_byte(at + 1) << 8;
    else
      return load_shared_byte(at);
  }

  __device__ __forceinline__ void convert(const Run& run, std::uint32_t a, int row, float of_expert) const {
    const std::uint32_t to = a + row * 128;
    const auto store = [&](int chunk, const std::uint32_t(&v)[4]) {
      asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(
                       to + (((half_ * 4 + chunk) ^ (row & 7)) << 4)),
                   "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                   : "memory");
    };
#pragma unroll
    for (int c = 0; c < kCopies; ++c) {
      const uint4& four = run.codes[c];
      const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
      if constexpr (format.code == CodeKind::e4m3) {
        const float factor =
            format.scale == ScaleKind::e8m0 ? power_of_code(run.scale) : __uint_as_float(run.scale);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          std::uint32_t pairs[4];
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            const float2 v = from_e4m3_pair(words[half * 2 + p / 2] >> p % 2 * 16);
            pairs[p] = pack_bf16(v.x * factor, v.y * factor);
          }
          store(c * 2 + half, pairs);
        }
      } else {
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          std::uint32_t pairs[4];
          from_nibbles<format.code>(words[word], pairs);
#pragma unroll
          for (std::uint32_t& pair : pairs) pair = scaled(pair, run.scale, word / 2, of_expert);
          store(word, pairs);
        }
      }
    }
  }

  /// Of e8m0: 2^-127 has no normal exponent.
  static __device__ __forceinline__ float power_of_code(std::uint32_t code) {
    return __uint_as_float(code == 0 ? 0x400000u : code << 23);
  }
  /// Numbers of 4 bits by their scale, or the run's second one: exact in bfloat16, but for int4, which rounds
  /// once, and for a factor of the expert, which rounds in fp32 first.
  static __device__ __forceinline__ std::uint32_t scaled(std::uint32_t pair, std::uint32_t scale, int second,
                                                         float of_expert) {
    if constexpr (format.scale == ScaleKind::e8m0)
      return multiply_bf16(pair, bf16_twice(scale == 0 ? 0x40u : scale << 7));
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return multiply_bf16(pair, bf16_twice(scale));
    else {
      const float2 both = from_e4m3_pair(scale);
      const float factor = second ? both.y : both.x;
      const float x = __uint_as_float(pair << 16) * factor, y = __uint_as_float(pair & 0xffff0000u) * factor;
      return format.expert_scale ? pack_bf16(x * of_expert, y * of_expert) : pack_bf16(x, y);
    }
  }

  const CodeSource& w_;
  std::uint32_t base_;
  int part_;  // of the strip to come
  int row_, half_;
  PipelineState<Layout> pipe_;  // at the strip's beginning
  PipelineState<Layout, Layout::code_slots> slots_;
};

}  // namespace moeref::cuda::sm90
