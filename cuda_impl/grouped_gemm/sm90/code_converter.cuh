// Weights stored as codes, on their way to operand A of a token product: eight warps load the codes of a
// strip, 64 of K at a time, turn them into the bfloat16 that dequantize() would write, and put these where
// TMA puts numbers, so that both give the same bits.
//
// A thread has a run of 32 codes of each stage, and those of the next two on their way to its registers.
// Floor: 640 cycles, what the tensor cores take for a stage of a full tile; 130 (int4) to 270 (nvfp4)
// instructions a warp, two warps a scheduler, would take less. Measured on an H200: 1210 (mxfp4) to 2235
// (mxfp8): the fence before a stage is full waits for what the thread has asked for of the next ones
// (tools/bench/results/2026-11-29-h200-codes.md).
#pragma once

#include "cuda_impl/grouped_gemm/sm90/pipeline.cuh"
#include "cuda_impl/quantization/format_facts.hpp"

namespace moeref::cuda::sm90 {

/// Codes [E, n, k] and their scales, as in weight_format.hpp; k a multiple of 32, codes aligned to 16 bytes.
struct CodeSource {
  WeightFormat format;
  const std::uint8_t* codes;
  const void* scales;
  const float* expert_scales;
  int k, n;
};

constexpr int kRun = 32, kRuns = kStrip * kBlockK / kRun;  // of a stage, each a thread's
constexpr int kConverterWarps = kRuns / 32;

/// f<format>() of a format with codes.
template <class F>
__device__ __forceinline__ void with_code_format(WeightFormat format, const F& f) {
  using enum WeightFormat;
  switch (format) {
    case none:
      break;
    case fp8_e4m3_block128:
      return f.template operator()<fp8_e4m3_block128>();
    case mxfp8:
      return f.template operator()<mxfp8>();
    case mxfp4:
      return f.template operator()<mxfp4>();
    case nvfp4:
      return f.template operator()<nvfp4>();
    case int4_group32:
      return f.template operator()<int4_group32>();
    case int4_group128:
      return f.template operator()<int4_group128>();
  }
}

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

template <class Layout, WeightFormat kFormat>
class CodeConverter {
  static constexpr FormatFacts format = facts(kFormat);
  static constexpr int kBits = format.bits(), kCopies = kRun * kBits / 8 / 16;
  static constexpr int kScaleBytes = format.scale == ScaleKind::float32    ? 4
                                     : format.scale == ScaleKind::bfloat16 ? 2
                                                                           : 1;
  static_assert(Layout::strips == 1);

 public:
  /// `run` of kRuns is this thread's.
  __device__ __forceinline__ CodeConverter(const CodeSource& w, std::uint32_t base, int run)
      : w_(w), base_(base), run_(run) {
    pipe_.phase = 1;  // the first pass over the stages finds them empty
  }

  /// Strip `strip` of expert `e`: 128 outputs, or, where `half` is not 0, 64 and those `half` further.
  /// when_empty(kb, stage) is called by each thread when the stage may be filled.
  template <class WhenEmpty>
  __device__ __forceinline__ void convert_strip(int e, int strip, int half, int k_blocks,
                                                const WhenEmpty& when_empty) {
    place(e, strip, half);
    Run runs[kAhead];
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) load(runs[ahead], ahead);
    const float of_expert = format.expert_scale ? w_.expert_scales[e] : 1.0f;
    for (int first = 0; first < k_blocks; first += kAhead)
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {  // unrolled: a move of what is on its way would wait for it
        const int kb = first + i;
        if (kb >= k_blocks) break;
        mbarrier_wait(Layout::empty(base_, pipe_.stage), pipe_.phase);
        when_empty(kb, pipe_.stage);
        convert(runs[i], of_expert);
        load(runs[i], kb + kAhead);
        fence_shared_for_async();
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(Layout::full(base_, pipe_.stage));
        pipe_.advance();
      }
  }

 private:
  static constexpr int kAhead = 2;
  struct Run {
    uint4 codes[kCopies];
    std::uint32_t scale;
  };
  __device__ __forceinline__ int row() const { return run_ / 2; }
  __device__ __forceinline__ int place_in_k(int kb) const { return kb * kBlockK + run_ % 2 * kRun; }

  __device__ __forceinline__ void place(int e, int strip, int half) {
    const int row_bytes = static_cast<int>(std::int64_t{w_.k} * kBits / 8),
              scale_rows = (w_.n + format.block_n - 1) / format.block_n,
              blocks = (w_.k + format.block_k - 1) / format.block_k;
    const int side = half == 0 ? strip * kStrip + row() : strip * 64 + row() % 64,
              output = side + (half != 0 && row() >= 64 ? half : 0);
    there_ = side < (half == 0 ? w_.n : half);
    codes_ = w_.codes + (std::int64_t{e} * w_.n + output) * row_bytes + place_in_k(0) * kBits / 8;
    scales_ = static_cast<const char*>(w_.scales) +
              (std::int64_t{e} * scale_rows + output / format.block_n) * blocks * kScaleBytes;
  }

  __device__ __forceinline__ void load(Run& to, int kb) const {
    const bool there = there_ && place_in_k(kb) < w_.k;
#pragma unroll
    for (int c = 0; c < kCopies; ++c)
      to.codes[c] = there ? __ldg(reinterpret_cast<const uint4*>(
                                codes_ + std::int64_t{kb} * (kBlockK * kBits / 8) + c * 16))
                          : uint4{};
    to.scale = there ? load_scale(kb) : 0;
  }

  /// As stored, two of a run where a block is shorter. (Of what is not there 0, as int4's code 0 is -8.)
  __device__ __forceinline__ std::uint32_t load_scale(int kb) const {
    const char* from = scales_ + place_in_k(kb) / format.block_k * kScaleBytes;
    const auto byte = [from](int i) -> std::uint32_t {
      return reinterpret_cast<const std::uint8_t*>(from)[i];
    };
    if constexpr (format.scale == ScaleKind::float32)
      return *reinterpret_cast<const std::uint32_t*>(from);
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return *reinterpret_cast<const std::uint16_t*>(from);
    else
      return format.block_k < kRun ? byte(0) | byte(1) << 8 : byte(0);
  }

  __device__ __forceinline__ void convert(const Run& run, float of_expert) const {
    const std::uint32_t to = Layout::a(base_, pipe_.stage) + row() * 128;
    const auto store = [&](int chunk, const std::uint32_t(&v)[4]) {
      asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(
                       to + (((run_ % 2 * 4 + chunk) ^ (row() & 7)) << 4)),
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
  int run_;
  PipelineState<Layout> pipe_;
  bool there_;
  const std::uint8_t* codes_;  // of the thread's run of the strip, at the beginning of K
  const char* scales_;         // of its output, at the beginning of K
};

}  // namespace moeref::cuda::sm90
