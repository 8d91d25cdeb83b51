// Both operands of a token product as codes of e4m3 with float32 scales: weights one per 128 x 128, tokens
// one per row and 128 of K (SPEC.md 11.1, accumulator e8m13_promoted128).
//
// A stage is 128 of K: as many bytes as 64 of bfloat16, in the same places, and behind the stages the tokens'
// scales. Tensor cores add up one strip's half (m64) over a stage, 13 bits below the largest exponent; that
// sum, times both scales, then goes on to float32 in registers. There is room for one such sum, so that a
// warpgroup's products wait for it; the other warpgroup's fill a part of that time.
//
// Floor of a stage of 256 x 128: 1024 cycles of the tensor cores; 32 KiB from L2 for each block of a cluster.
// Measured on an H200: 890 TF for the up product of qwen3_30b with 1024 rows an expert, whose tensor cores
// are busy 48 % of the time (tools/bench/results/2026-11-30-h200-e4m3.md).
#pragma once

#include "cuda_impl/grouped_gemm/sm90/code_feeder.cuh"
#include "cuda_impl/grouped_gemm/sm90/epilogue_store.cuh"
#include "cuda_impl/grouped_gemm/sm90/pipeline.cuh"

namespace moeref::cuda::sm90 {

constexpr int kCodeBlockK = 128, kCodedTokens = 128;

/// Codes [E, n, k] and their scales [E, ceil(n / 128), ceil(k / 128)].
struct CodedMatrices {
  CUtensorMap codes;
  const float* scales;
  int n;
};
/// Codes [R, k] and their scales [ceil(k / 128), scale_pitch], in the order of quantize_rows.hpp.
struct CodedTokens {
  CUtensorMap codes, scales;
  int chunk;  // of those that an expert's rows come in
};

template <int Staging, int Cluster>
struct CodedLayout
    : SharedLayout<2, kCodedTokens, 4, Staging + 4 * kCodedTokens* int{sizeof(float)}, Cluster> {
  static_assert(Staging % 128 == 0);  // TMA's
  static __device__ std::uint32_t token_scales(std::uint32_t base, int stage) {
    return base + CodedLayout::staging + Staging + stage * kCodedTokens * int{sizeof(float)};
  }
};

/// Scales of a strip's halves of 64 rows, the second `half` further than the first where that is not 0: a
/// multiple of 64, so that each half lies in one block.
class StripScales {
 public:
  __device__ __forceinline__ StripScales(const CodedMatrices& w, const TileOutput& tile, int half, int blocks)
      : scales_(w.scales + std::int64_t{tile.expert} * ((w.n + 127) / 128) * blocks) {
    const StripRows rows(tile.strip, half);
#pragma unroll
    for (int b = 0; b < 2; ++b) at_[b] = min(rows.output(64 * b), w.n - 1) / 128 * blocks;
  }
  __device__ __forceinline__ float of(int half, int block) const { return scales_[at_[half] + block]; }

 private:
  const float* scales_;
  int at_[2];
};

template <class Layout, int N, class WhileRunning>
__device__ __forceinline__ void accumulate_coded_n(Accumulator<Layout::max_n>& acc, std::uint32_t base,
                                                   int strip, const StripScales& scales, int blocks,
                                                   PipelineState<Layout>& pipe,
                                                   const WhileRunning& while_running) {
  constexpr int kAhead = N / 8 < 4 ? N / 8 : 4;  // of the tokens' scales, which come from shared memory
  float of_half[2] = {scales.of(0, 0), scales.of(1, 0)};
  for (int block = 0; block < blocks; ++block) {
    const int next_block = min(block + 1, blocks - 1);
    const float next[2] = {scales.of(0, next_block), scales.of(1, next_block)};
    mbarrier_wait(Layout::full(base, pipe.stage), pipe.phase);
    const std::uint64_t a = descriptor(Layout::a(base, pipe.stage) + strip * 2 * kBlock64Bytes,
                                       kBlock64Bytes),
                        b = descriptor(Layout::b(base, pipe.stage), kBlock64Bytes);
    const std::uint32_t of_tokens = Layout::token_scales(base, pipe.stage) + threadIdx.x % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sums[N / 2];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma_e4m3<N>(sums, a + half * (kBlock64Bytes >> 4) + k * 2, b + k * 2, k > 0);
      wgmma_commit();
      float2 token[kAhead];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) token[j] = load_shared_pair(of_tokens + j * 32);
      if (half == 1 && block == blocks - 1) while_running();
      wgmma_wait<0>();
      fence_accumulator(sums);
#pragma unroll
      for (int j = 0; j < N / 8; ++j) {
        const float even = token[j % kAhead].x * of_half[half], odd = token[j % kAhead].y * of_half[half];
        if (j + kAhead < N / 8) token[j % kAhead] = load_shared_pair(of_tokens + (j + kAhead) * 32);
#pragma unroll
        for (int q = 0; q < 4; ++q)
          acc.d[half][4 * j + q] = fmaf(sums[4 * j + q], q % 2 == 0 ? even : odd, acc.d[half][4 * j + q]);
      }
    }
    release<Layout>(base, pipe.stage);
    pipe.advance();
    of_half[0] = next[0], of_half[1] = next[1];
  }
}

/// Sums `blocks` stages into acc for the first n columns (a multiple of 16). while_running() is called once
/// the last product is issued.
template <class Layout, class WhileRunning>
__device__ __forceinline__ void accumulate_coded(Accumulator<Layout::max_n>& acc, std::uint32_t base,
                                                 int strip, int n, const StripScales& scales, int blocks,
                                                 PipelineState<Layout>& pipe,
                                                 const WhileRunning& while_running) {
#pragma unroll
  for (int i = 0; i < Layout::max_n / 2; ++i) acc.d[0][i] = acc.d[1][i] = 0;
#define MOEREF_N(v)                                                                            \
  case v:                                                                                      \
    accumulate_coded_n<Layout, 16 * v>(acc, base, strip, scales, blocks, pipe, while_running); \
    break;
  switch (n / 16) {
    MOEREF_N(1)
    MOEREF_N(2)
    MOEREF_N(3)
    MOEREF_N(4)
    MOEREF_N(5)
    MOEREF_N(6)
    MOEREF_N(7)
    MOEREF_N(8)
  }
#undef MOEREF_N
}

}  // namespace moeref::cuda::sm90
