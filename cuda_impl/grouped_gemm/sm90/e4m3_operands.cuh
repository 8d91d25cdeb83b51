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

#include "cuda_impl/grouped_gemm/sm90/code_feeder.cuh"
#include "cuda_impl/grouped_gemm/sm90/epilogue_store.cuh"
#include "cuda_impl/grouped_gemm/sm90/pipeline.cuh"

namespace moeref::cuda::sm90 {

constexpr int kCodeBlockK = 128, kCodedTokens = 128;
constexpr bool kInTurn = true;

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

/// Whose products run, so that those of one warpgroup fill the time in which the other adds its sums up.
template <class Layout>
class ProductTurn {
 public:
  __device__ __forceinline__ ProductTurn(std::uint32_t base, int warpgroup)
      : mine_(Layout::turn_to_multiply(base, warpgroup)),
        other_(Layout::turn_to_multiply(base, 1 - warpgroup)),
        phase_(warpgroup == 0) {}  // the first goes first
  __device__ __forceinline__ void await() {
    mbarrier_wait(mine_, phase_);
    phase_ ^= 1;
  }
  __device__ __forceinline__ void pass() const {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(other_);
  }

 private:
  std::uint32_t mine_, other_, phase_;
};

template <class Layout, int N, class WhileRunning>
__device__ __forceinline__ void accumulate_coded_n(Accumulator<Layout::max_n>& acc, std::uint32_t base,
                                                   int strip, const StripScales& scales, int blocks,
                                                   PipelineState<Layout>& pipe, ProductTurn<Layout>& turn,
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
      if (kInTurn) turn.await();
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
      if (kInTurn) turn.pass();
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

/// For a warpgroup whose strip lies outside of the matrix, while the other's does not.
template <class Layout>
__device__ __forceinline__ void skip_coded(std::uint32_t base, int blocks, PipelineState<Layout>& pipe,
                                           ProductTurn<Layout>& turn) {
  for (int block = 0; block < blocks; ++block) {
    if (kInTurn)
      for (int half = 0; half < 2; ++half) turn.await(), turn.pass();
    mbarrier_wait(Layout::full(base, pipe.stage), pipe.phase);
    release<Layout>(base, pipe.stage);
    pipe.advance();
  }
}

/// Sums `blocks` stages into acc for the first n columns (a multiple of 16). while_running() is called once
/// the last product is issued.
template <class Layout, class WhileRunning>
__device__ __forceinline__ void accumulate_coded(Accumulator<Layout::max_n>& acc, std::uint32_t base,
                                                 int strip, int n, const StripScales& scales, int blocks,
                                                 PipelineState<Layout>& pipe, ProductTurn<Layout>& turn,
                                                 const WhileRunning& while_running) {
#pragma unroll
  for (int i = 0; i < Layout::max_n / 2; ++i) acc.d[0][i] = acc.d[1][i] = 0;
#define MOEREF_N(v)                                                                                  \
  case v:                                                                                            \
    accumulate_coded_n<Layout, 16 * v>(acc, base, strip, scales, blocks, pipe, turn, while_running); \
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
