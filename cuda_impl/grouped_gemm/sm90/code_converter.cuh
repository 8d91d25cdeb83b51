// Weights stored as codes, from the slots that code_feeder.cuh has filled to operand A of a token product:
// eleven warps turn them into the bfloat16 that dequantize() would write, 16 rows of 64 of K at a time, and
// put these where TMA puts numbers, so that both give the same bits. They load nothing from device memory:
// the fence before a stage is full waits for all that its thread has asked for.
//
// Floor of a stage of 8192 codes: 640 cycles of the tensor cores for a full tile; for few rows about 350 of
// shared memory (codes in and out, numbers in, and out for each product) and 300 of instructions (about 150 a
// warp and part, two parts a scheduler). Not measured yet.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/code_feeder.cuh"
#include "cuda_impl/grouped_gemm/sm90/code_numbers.cuh"

namespace moeref::cuda::sm90 {

constexpr int kConverterWarps = 11;
static_assert(kStripParts * 32 * kRun == kStrip * kBlockK);

/// One of Layout::converters warps. They take the parts of the stages in turn, 16 rows each.
template <class Layout, WeightFormat kFormat>
class CodeConverter {
  using Slot = CodeSlot<kFormat>;
  static constexpr FormatFacts format = Slot::format;
  static constexpr int kBits = Slot::bits, kCopies = kRun * kBits / 8 / 16;
  static_assert(Layout::strips == 1 && Layout::code_slots >= Layout::stages);

 public:
  /// A lane has half of a row; their order keeps eight lanes to banks of their own, in a slot and in a stage.
  __device__ __forceinline__ CodeConverter(const CodeSource& w, std::uint32_t base, unsigned warp)
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
  __device__ __forceinline__ void convert_strip(int e, const StripRows& rows, unsigned k_blocks,
                                                const FirstPart& first_part) {
    const unsigned parts = k_blocks * kStripParts;
    const auto scales =
        static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(scales_of<kFormat>(w_, e, 0)));
    const int scale_row = (w_.k + format.block_k - 1) / format.block_k * Slot::scale_size;
    PipelineState<Layout> pipe = pipe_;
    PipelineState<Layout, Layout::code_slots> slot = slots_;
    for (unsigned at = 0; part_ < parts; part_ += Layout::converters) {
      const unsigned kb = part_ / kStripParts, first_row = part_ % kStripParts * 16;
      pipe.advance_little(kb - at);
      slot.advance_little(kb / Slot::stages - at / Slot::stages);
      at = kb;
      const std::uint32_t from = Layout::code_slot(base_, slot.stage);
      // The stage first: what was in it has been multiplied, so that the slot as many places back has been
      // full, even where the warp had no part of it, and its barrier is not a phase behind.
      mbarrier_wait(Layout::empty(base_, pipe.stage), pipe.phase);
      if (first_row == 0) first_part(kb, pipe.stage);
      mbarrier_wait(Layout::code_full(base_, slot.stage), slot.phase);
      const Run run =
          load(from, first_row, kb, scales + rows.output(first_row + row_) / format.block_n * scale_row);
      const float of_expert =
          format.expert_scale ? __int_as_float(load_shared_word(from + Slot::expert_scale_at)) : 1.0f;
      convert(run, Layout::a(base_, pipe.stage) + first_row * 128, of_expert);
      fence_shared_for_async();
      __syncwarp();
      if (threadIdx.x % 32 == 0) {
        mbarrier_arrive(Layout::full(base_, pipe.stage));
        const bool alone = Slot::stages == 1 || (kb % Slot::stages == 0 && kb + 1 == k_blocks);
        mbarrier_arrive(Layout::code_empty(base_, slot.stage), alone ? 2 : 1);
      }
    }
    part_ -= parts;
    pipe_.advance(k_blocks);
    slots_.advance((k_blocks + Slot::stages - 1) / Slot::stages);
  }

 private:
  struct Run {
    uint4 codes[kCopies];
    std::uint32_t scale;
  };

  /// Beyond K codes are 0, whatever the scales there, which must not be infinite.
  __device__ __forceinline__ Run load(std::uint32_t slot, unsigned first_row, unsigned kb,
                                      std::uint32_t scales) const {
    Run to;
    const std::uint32_t codes =
        slot + first_row * kCodeRowBytes + row_ * kCodeRowBytes + ((half_ * kCopies ^ (row_ / 2 & 3)) << 4);
#pragma unroll
    for (unsigned c = 0; c < kCopies; ++c)
      to.codes[c] = load_shared(codes ^ (kb % Slot::stages * 2 * kCopies + c) << 4);
    to.scale = kb * kBlockK + half_ * kRun < unsigned(w_.k) ? load_scale(slot, first_row, kb, scales) : 0;
    return to;
  }

  /// As stored, two of a run where a block is shorter. `scales`: where the row's lie in device memory, of
  /// which the last bits count, as whole words have been copied.
  __device__ __forceinline__ std::uint32_t load_scale(std::uint32_t slot, unsigned first_row, unsigned kb,
                                                      std::uint32_t scales) const {
    const unsigned i = kb % Slot::stages, shift = (scales + scale_of(kb - i, 0)) & 3;
    const std::uint32_t at =
        slot + Slot::scales_at + (first_row + row_) * Slot::scale_pitch + shift + scale_of(i, half_);
    if constexpr (format.scale == ScaleKind::float32)
      return load_shared_word(at);
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return load_shared_half(at);
    else if constexpr (format.block_k < kRun)
      return load_shared_byte(at) | load_shared_byte(at + 1) << 8;
    else
      return load_shared_byte(at);
  }
  /// In bytes, of half a stage.
  static __device__ __forceinline__ unsigned scale_of(unsigned kb, unsigned half) {
    return (kb * kBlockK + half * kRun) / format.block_k * Slot::scale_size;
  }

  /// To the row's half of operand A, 64 bytes.
  __device__ __forceinline__ void convert(const Run& run, std::uint32_t rows, float of_expert) const {
    const std::uint32_t to = rows + row_ * 128 + ((half_ * 4 ^ (row_ & 7)) << 4);
    const RunScale<kFormat> scale(run.scale, of_expert);
    if (scale.whole())
      store_numbers<true>(run, scale, to);
    else
      store_numbers<false>(run, scale, to);
  }
  template <bool kWhole>
  static __device__ __forceinline__ void store_numbers(const Run& run, const RunScale<kFormat>& scale,
                                                       std::uint32_t to) {
#pragma unroll
    for (int eight = 0; eight < 4; ++eight) {
      const uint4& from = run.codes[eight * kCopies / 4];
      const std::uint32_t words[4] = {from.x, from.y, from.z, from.w};
      std::uint32_t v[4];
      scale.template numbers<kWhole>(words + eight * kCopies % 4, eight, v);
      asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to ^ eight << 4), "r"(v[0]), "r"(v[1]),
                   "r"(v[2]), "r"(v[3])
                   : "memory");
    }
  }

  const CodeSource& w_;
  std::uint32_t base_;
  unsigned part_;  // of the strip to come
  unsigned row_, half_;
  PipelineState<Layout> pipe_;  // at the strip's beginning
  PipelineState<Layout, Layout::code_slots> slots_;
};

}  // namespace moeref::cuda::sm90
