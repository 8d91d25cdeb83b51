// Weights stored as codes, on their way to the warps that turn them into numbers (code_converter.cuh): codes
// by TMA, scales by copies of four or eight bytes, both into slots of shared memory whose barriers tell when
// they have come. One warp asks for them, as far ahead as there are slots, across units of work; it waits for
// none of them, and the converters have no loads of their own on their way: their fences wait for all such.
//
// A slot: 128 rows of 64 bytes of codes, 64-byte swizzle, then for each row three words around eight bytes of
// scales, those of one slot or of a group of them, and the expert's scale. A slot in flight is 8 KiB, and
// seven ask for more than a device memory of 4 TB/s can bring at a microsecond's latency; measured, 0.72 of
// its copy rate with codes of 8 bits, when the converters are what limits.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/pipeline.cuh"
#include "cuda_impl/quantization/format_facts.hpp"

namespace moeref::cuda::sm90 {

/// Codes [E, n, k] and their scales, as in weight_format.hpp; k a multiple of 32, codes aligned to 16 bytes.
struct CodeSource {
  CUtensorMap codes;
  WeightFormat format;
  const char *scales, *scales_end;
  const float* expert_scales;
  int k, n;
};

template <WeightFormat kFormat>
struct CodeSlot {
  static constexpr FormatFacts format = facts(kFormat);
  static constexpr int bits = format.bits(), depth = kCodeRowBytes * 8 / bits, stages = depth / kBlockK;
  /// Slots of a group, whose scales are eight bytes of a row.
  static constexpr int group_bytes = 8, scale_size = format.scale_bytes(),
                       group_depth = group_bytes / scale_size * format.block_k, slots = group_depth / depth;
  static_assert(group_depth % depth == 0);
  static constexpr int scale_pitch = 16, expert_scale_at = 12;
  static_assert(kStrip * scale_pitch == kCodeSlotBytes - kStrip * kCodeRowBytes);
};
/// Where a group's scales are: behind the codes of slots in turn, whichever slots are its own.
template <class Layout>
__device__ __forceinline__ std::uint32_t group_scales(std::uint32_t base, int group) {
  return Layout::code_slot(base, group) + kStrip * kCodeRowBytes;
}

/// The outputs of a strip: 128, or, where `half` is not 0, 64 and those `half` further.
struct StripRows {
  int first, half;
  __device__ __forceinline__ StripRows(int strip, int half)
      : first(strip * (half != 0 ? 64 : kStrip)), half(half) {}
  __device__ __forceinline__ int output(int row) const {
    return first + (half != 0 && row >= 64 ? row - 64 + half : row);
  }
};

/// Scales of an output, at the beginning of K.
template <WeightFormat kFormat>
__device__ __forceinline__ const char* scales_of(const CodeSource& w, int e, int output) {
  using Slot = CodeSlot<kFormat>;
  constexpr FormatFacts format = Slot::format;
  const int rows = (w.n + format.block_n - 1) / format.block_n,
            blocks = (w.k + format.block_k - 1) / format.block_k;
  return w.scales + (std::int64_t{e} * rows + output / format.block_n) * blocks * Slot::scale_size;
}

/// By all lanes of one warp.
template <class Layout, WeightFormat kFormat>
class CodeFeeder {
  using Slot = CodeSlot<kFormat>;

 public:
  __device__ __forceinline__ CodeFeeder(const CodeSource& w, std::uint32_t base) : w_(w), base_(base) {
    pipe_.phase = 1;  // the first pass over the slots finds them empty
  }
  static __device__ int slots(int k_extent) { return (k_extent + Slot::depth - 1) / Slot::depth; }

  /// All slots of a strip; before_last() is called by all lanes, early enough for a load to be answered by
  /// their end.
  template <class BeforeLast>
  __device__ __forceinline__ void feed_strip(int e, const StripRows& rows, const BeforeLast& before_last) {
    const int lane = threadIdx.x % 32, count = slots(w_.k), draw_at = max(0, count - 2);
    // Of a lane's rows: the word where their scales begin, and how far the end of all scales is.
    const char* words[kRows];
    int left[kRows];
    unsigned starts = (w_.k + Slot::format.block_k - 1) / Slot::format.block_k * Slot::scale_size;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const char* from = scales_of<kFormat>(w_, e, min(rows.output(lane + 32 * i), w_.n - 1));
      const auto low = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(from));
      starts |= low;
      words[i] = from - (low & 3);
      left[i] = static_cast<int>(min(w_.scales_end - words[i], std::int64_t{1} << 30));
    }
    const bool aligned = __any_sync(0xffffffffu, starts % Slot::group_bytes != 0) == 0;
    for (int j = 0; j < count; ++j) {
      if (j == draw_at) before_last();
      const std::uint32_t full = Layout::code_full(base_, pipe_.stage),
                          to = Layout::code_slot(base_, pipe_.stage);
      mbarrier_wait(Layout::code_empty(base_, pipe_.stage), pipe_.phase);
      if (lane == 0) {
        mbarrier_arrive_expect(full, kStrip * kCodeRowBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half)
          tma_load(to + half * 64 * kCodeRowBytes, &w_.codes, full, j * kCodeRowBytes, rows.output(half * 64),
                   e);
      }
      if (j % Slot::slots == 0) copy_scales(e, words, left, j / Slot::slots * Slot::group_bytes, aligned);
      mbarrier_arrive_after_copies(full);
      pipe_.advance();
    }
  }

 private:
  static constexpr int kRows = kStrip / 32;  // of a lane

  /// Of a group, `offset` bytes from the rows' beginnings. Each copy of a warp costs shared memory 32 cycles,
  /// one for each row, whatever its width. No group that others read is overwritten: the last one there had a
  /// slot at least as many slots back as there are, and has been given back.
  __device__ __forceinline__ void copy_scales(int e, const char* const (&words)[kRows],
                                              const int (&left)[kRows], int offset, bool aligned) {
    const std::uint32_t to = group_scales<Layout>(base_, group_.stage);
    const std::uint32_t row = to + threadIdx.x % 32 * Slot::scale_pitch;
    if (aligned) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) copy_two_words(row + 32 * i * Slot::scale_pitch, words[i] + offset);
    } else {
#pragma unroll
      for (int word = 0; word < 3; ++word)
#pragma unroll
        for (int i = 0; i < kRows; ++i)
          copy_word_if(offset + word * 4 < left[i], row + 32 * i * Slot::scale_pitch + word * 4,
                       words[i] + offset + word * 4);
    }
    if constexpr (Slot::format.expert_scale)
      copy_word_if(threadIdx.x % 32 == 0, to + Slot::expert_scale_at, w_.expert_scales + e);
    group_.advance();
  }

  const CodeSource& w_;
  std::uint32_t base_;
  PipelineState<Layout, Layout::code_slots> pipe_, group_;
};

}  // namespace moeref::cuda::sm90
