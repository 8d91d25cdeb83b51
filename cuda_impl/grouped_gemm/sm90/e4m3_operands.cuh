// Both operands of a token product as codes of e4m3 with float32 scales: weights one per 128 x 128, tokens
// one per row and 128 of K (SPEC.md 11.1, accumulator e8m13_promoted128).
//
// A stage is 128 of K: as many bytes as 64 of bfloat16, in the same places, and behind the stages the tokens'
// scales. Tensor cores add up one strip's half (m64) over a stage, 13 bits below the largest exponent; that
// sum, times both scales, then goes on to float32 in registers. While one warpgroup does that the other's
// products run, so that one buffer of sums is enough, and 128 tokens with it.
//
// Floor of a stage of 256 x 128: 1024 cycles of the tensor cores; 32 KiB from L2 for each block of a cluster.
#pragma once

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

/// Scales of a thread's rows of M: 64 b + 16 warp + lane / 4 + 8 h of a strip, those of the second half
/// `half` further than 64 where that is not 0.
class StripScales {
 public:
  __device__ __forceinline__ StripScales(const CodedMatrices& w, const TileOutput& tile, int half, int blocks)
      : scales_(w.scales + std::int64_t{tile.expert} * ((w.n + 127) / 128) * blocks) {
    const int row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int b = 0; b < 2; ++b)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int output =
            (half != 0 ? tile.strip * 64 + b * half : tile.strip * kStrip + b * 64) + row + 8 * h;
        at_[b][h] = min(output, w.n - 1) / 128 * blocks;
      }
  }
  __device__ __forceinline__ void load(int block, float (&to)[2][2]) const {
#pragma unroll
    for (int b = 0; b < 2; ++b)
#pragma unroll
      for (int h = 0; h < 2; ++h) to[b][h] = scales_[at_[b][h] + block];
  }

 private:
  const float* scales_;
  int at_[2][2];
};

template <class Layout, int N, class WhileRunning>
__device__ __forceinline__ void accumulate_coded_n(Accumulator<Layout::max_n>& acc, std::uint32_t base,
                                                   int strip, const StripScales& scales, int blocks,
                                                   PipelineState<Layout>& pipe,
                                                   const WhileRunning& while_running) {
  float of_weights[2][2];
  scales.load(0, of_weights);
  for (int block = 0; block < blocks; ++block) {
    float next[2][2];
    scales.load(min(block + 1, blocks - 1), next);
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
      if (half == 1 && block == blocks - 1) while_running();
      wgmma_wait<0>();
      fence_accumulator(sums);
#pragma unroll
      for (int j = 0; j < N / 8; ++j) {
        const float2 token = load_shared_pair(of_tokens + j * 32);
#pragma unroll
        for (int q = 0; q < 4; ++q)
          acc.d[half][4 * j + q] =
              fmaf(sums[4 * j + q], (q % 2 == 0 ? token.x : token.y) * of_weights[half][q / 2],
                   acc.d[half][4 * j + q]);
      }
    }
    release<Layout>(base, pipe.stage);
    pipe.advance();
#pragma unroll
    for (int i = 0; i < 4; ++i) of_weights[i / 2][i % 2] = next[i / 2][i % 2];
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
