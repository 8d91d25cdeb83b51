// Weights stored as codes, from the slots that code_feeder.cuh has filled to operand A of a token product:
// eleven warps turn them into the bfloat16 that dequantize() would write, 32 rows of 64 of K at a time, and
// put these where TMA puts numbers, so that both give the same bits. They load nothing from device memory:
// the fence before a stage is full waits for all that its thread has asked for. Two runs of 32 codes a thread
// share the fence, the waits and the addresses.
//
// Floor of a stage of 8192 codes: 640 cycles of the tensor cores for a full tile; for few rows about 480
// (4 bits) or 520 (8 bits) of shared memory (codes and scales in and out, numbers in, and out for each
// product) and 350 of instructions. Measured at 16 rows an expert: about 570 and 670, where warps wait for a
// free stage (tools/bench/results/2026-11-30-h200-codes.md).
#pragma once

#include "cuda_impl/grouped_gemm/sm90/code_feeder.cuh"
#include "cuda_impl/grouped_gemm/sm90/code_numbers.cuh"

namespace moeref::cuda::sm90 {

constexpr int kConverterWarps = 11;
static_assert(kStripParts * 32 * 2 * kRun == kStrip * kBlockK);

/// One of Layout::converters warps. They take the parts of the stages in turn, 32 rows each.
template <class Layout, WeightFormat kFormat>
class CodeConverter {
  using Slot = CodeSlot<kFormat>;
  static constexpr FormatFacts format = Slot::format;
  static constexpr int kBits = Slot::bits, kCopies = kRun * kBits / 8 / 16;
  static constexpr unsigned kGroupStages = Slot::slots * Slot::stages;
  static constexpr int kPartRows = kStrip / kStripParts, kSecondRun = 16;  // rows below the first
  static_assert(Layout::strips == 1 && (format.block_n == 1 || Slot::scale_size == 4));

 public:
  /// A lane has half of a row, and of the one 16 below; their order keeps eight lanes to banks of their own,
  /// in a slot and in a stage.
  __device__ __forceinline__ CodeConverter(const CodeSource& w, std::uint32_t base, unsigned warp)
      : w_(w), base_(base), part_(warp), half_(threadIdx.x % 2) {
    const unsigned row = threadIdx.x % 32 / 2 ^ (threadIdx.x % 32 / 2 & 2) << 1;
    codes_ = row * kCodeRowBytes + ((half_ * kCopies ^ (row / 2 & 3)) << 4);
    numbers_ = row * 128 + ((half_ * 4 ^ (row & 7)) << 4);
    row_ = row;
    pipe_.phase = 1;  // the first pass over the stages finds them empty
  }

  /// The warp's parts of a strip. first_part(kb, stage) is called by all lanes of the warp that has the first
  /// part of a stage, when it may be filled.
  template <class FirstPart>
  __device__ __forceinline__ void convert_strip(int e, unsigned k_blocks, const FirstPart& first_part) {
    const unsigned parts = k_blocks * kStripParts;
    // Where the scales of a lane's rows begin in a word: strips and parts begin at whole words from each
    // other.
    const auto scales = static_cast<unsigned>(
        reinterpret_cast<std::uintptr_t>(scales_of<kFormat>(w_, e, format.block_n == 1 ? int(row_) : 0)) & 3);
    PipelineState<Layout> pipe = pipe_;
    PipelineState<Layout, Layout::code_slots> slot = slots_, group = groups_;
    for (unsigned at = 0; part_ < parts; part_ += Layout::converters) {
      const unsigned kb = part_ / kStripParts, first_row = part_ % kStripParts * kPartRows;
      pipe.advance_little(kb - at);
      slot.advance_little(kb / Slot::stages - at / Slot::stages);
      group.advance_little(kb / kGroupStages - at / kGroupStages);
      at = kb;
      // No barrier of a slot is a phase behind: the warp's last part was of a stage at most
      // converters / kStripParts before, when what was in that stage had been multiplied.
      const std::uint32_t from = Layout::code_slot(base_, slot.stage);
      mbarrier_wait(Layout::code_full(base_, slot.stage), slot.phase);
      const std::uint32_t from_group = group_scales<Layout>(base_, group.stage);
      const Runs runs = load(from, from_group + scales, first_row, kb);
      const float of_expert =
          format.expert_scale ? __int_as_float(load_shared_word(from_group + Slot::expert_scale_at)) : 1.0f;
      mbarrier_wait(Layout::empty(base_, pipe.stage), pipe.phase);
      if (first_row == 0) first_part(kb, pipe.stage);
      convert(runs, Layout::a(base_, pipe.stage) + first_row * 128 + numbers_, of_expert);
      __syncwarp();  // all lanes' codes have come to their registers
      const bool alone = Slot::stages == 1 || (kb % Slot::stages == 0 && kb + 1 == k_blocks);
      if (threadIdx.x % 32 == 0) mbarrier_arrive(Layout::code_empty(base_, slot.stage), alone ? 2 : 1);
      fence_shared_for_async();
      __syncwarp();
      if (threadIdx.x % 32 == 0) mbarrier_arrive(Layout::full(base_, pipe.stage));
    }
    part_ -= parts;
    pipe_.advance(k_blocks);
    slots_.advance((k_blocks + Slot::stages - 1) / Slot::stages);
    groups_.advance((k_blocks + kGroupStages - 1) / kGroupStages);
  }

 private:
  struct Runs {
    uint4 codes[2][kCopies];
    std::uint32_t scale[2];
  };

  /// Beyond K codes are 0, whatever the scales there, which must not be infinite.
  __device__ __forceinline__ Runs load(std::uint32_t slot, std::uint32_t scales, unsigned first_row,
                                       unsigned kb) const {
    Runs to;
    const std::uint32_t codes = (slot + first_row * kCodeRowBytes + codes_) ^ kb % Slot::stages * 2 * kCopies
                                                                                  << 4;
    const std::uint32_t scale =
        scales + (first_row + row_) * Slot::scale_pitch +
        (kb % kGroupStages * kBlockK + half_ * kRun) / format.block_k * Slot::scale_size;
    const bool inside = kb * kBlockK + half_ * kRun < unsigned(w_.k);
#pragma unroll
    for (unsigned run = 0; run < 2; ++run) {
#pragma unroll
      for (unsigned c = 0; c < kCopies; ++c)
        to.codes[run][c] = load_shared((codes ^ (c << 4)) + run * kSecondRun * kCodeRowBytes);
      const std::uint32_t stored = load_scale(scale + run * kSecondRun * Slot::scale_pitch);
      to.scale[run] = inside ? stored : 0;
    }
    return to;
  }

  /// As stored, two of a run where a block is shorter.
  static __device__ __forceinline__ std::uint32_t load_scale(std::uint32_t at) {
    if constexpr (format.scale == ScaleKind::float32)
      return load_shared_word(at);
    else if constexpr (format.scale == ScaleKind::bfloat16)
      return load_shared_half(at);
    else if constexpr (format.block_k < kRun)
      return load_shared_byte(at) | load_shared_byte(at + 1) << 8;
    else
      return load_shared_byte(at);
  }

  /// To the rows' halves of operand A, 64 bytes each.
  static __device__ __forceinline__ void convert(const Runs& runs, std::uint32_t to, float of_expert) {
    const RunScale<kFormat> a(runs.scale[0], of_expert), b(runs.scale[1], of_expert);
    if (RunScale<kFormat>::whole(a, b)) {
      store_numbers<true>(runs.codes[0], a, to);
      store_numbers<true>(runs.codes[1], b, to + kSecondRun * 128);
    } else {
      store_numbers<false>(runs.codes[0], a, to);
      store_numbers<false>(runs.codes[1], b, to + kSecondRun * 128);
    }
  }
  template <bool kWhole>
  static __device__ __forceinline__ void store_numbers(const uint4 (&codes)[kCopies],
                                                       const RunScale<kFormat>& scale, std::uint32_t to) {
#pragma unroll
    for (int eight = 0; eight < 4; ++eight) {
      const uint4& from = codes[eight * kCopies / 4];
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
  std::uint32_t codes_, numbers_;  // of the lane, in a part of a slot and of a stage
  PipelineState<Layout> pipe_;     // at the strip's beginning
  PipelineState<Layout, Layout::code_slots> slots_, groups_;
};

}  // namespace moeref::cuda::sm90
