// Weights stored as codes, on their way to the warps that turn them into numbers (code_converter.cuh): codes
// by TMA, scales by copies of four bytes, both into slots of shared memory whose barriers tell when they have
// come. One warp asks for them, as far ahead as there are slots, across units of work; it waits for none of
// them, and the converters have no loads of their own on their way: their fences wait for all such.
//
// A slot: 128 rows of 64 bytes of codes, 64-byte swizzle, then for each row three words around its scales,
// and the expert's scale.
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

template <WeightFormat kFormat>
struct CodeSlot {
  static constexpr FormatFacts format = facts(kFormat);
  static constexpr int bits = format.bits(), depth = kCodeRowBytes * 8 / bits, stages = depth / kBlockK;
  static constexpr int scale_size = format.scale_bytes(),
                       scale_bytes = (depth > format.block_k ? depth / format.block_k : 1) * scale_size;
  /// From a slot's scales to the next one's, where a slot has some of its own.
  static constexpr int scale_step = depth / format.block_k * scale_size;
  static_assert(scale_step > 0 || scale_size == 4);
  /// Words that hold a slot's scales where these begin at a word or half of one, or, with one more, anywhere.
  static constexpr int scale_words = (scale_bytes + 3) / 4;
  static constexpr int scale_pitch = 12, scales_at = kStrip * kCodeRowBytes,
                       expert_scale_at = scales_at + kStrip * scale_pitch;
  static_assert((scale_words + 1) * 4 <= scale_pitch && expert_scale_at + 4 <= kCodeSlotBytes);
};

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
    // Of a lane's rows: the word where their scales begin, how far in it, and how far the end of all scales
    // is.
    const char* words[kRows];
    int shift[kRows], left[kRows];
    bool one_more = false;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const char* from = scales_of<kFormat>(w_, e, min(rows.output(lane + 32 * i), w_.n - 1));
      shift[i] = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) & 3);
      words[i] = from - shift[i];
      left[i] = static_cast<int>(min(w_.scales_end - words[i], std::int64_t{1} << 30));
      one_more |= shift[i] % kGranule + 4 - kGranule + Slot::scale_bytes > 4 * Slot::scale_words;
    }
    one_more = __any_sync(0xffffffffu, one_more) != 0;
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
        if constexpr (Slot::format.expert_scale)
          copy_word_if(true, to + Slot::expert_scale_at, w_.expert_scales + e);
      }
      const int offset = j * Slot::depth / Slot::format.block_k * Slot::scale_size;
      const auto copy_words = [&](int word) {
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int at = ((shift[i] + offset) & ~3) + word * 4;
          copy_word_if(word == 0 || at < left[i],
                       to + Slot::scales_at + (lane + 32 * i) * Slot::scale_pitch + word * 4, words[i] + at);
        }
      };
#pragma unroll
      for (int word = 0; word < Slot::scale_words; ++word) copy_words(word);
      if (one_more) copy_words(Slot::scale_words);
      mbarrier_arrive_after_copies(full);
      pipe_.advance();
    }
  }

 private:
  static constexpr int kRows = kStrip / 32;  // of a lane
  /// All slots' scales begin as far in a word, but for multiples of as many bytes.
  static constexpr int kGranule = Slot::scale_step % 4 == 0 ? 4 : 2;

  const CodeSource& w_;
  std::uint32_t base_;
  PipelineState<Layout, Layout::code_slots> pipe_;
};

}  // namespace moeref::cuda::sm90
