// The forward epilogue of activations whose gate and up columns are halves of H: on the accumulators as wgmma
// leaves them, where gate and up of one element lie in one thread. bf16 alone passes through shared memory,
// 16 tokens x 64 columns at a time, so that 128 contiguous bytes of a row are stored together. The same for
// the gradient was slower than epilogue_activation.cuh: it needs H as well, which spills registers.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"

namespace moeref::cuda::sm90 {

// 16 tokens x 16 columns, of which a thread holds tokens 8 (i / 4) + 2 (lane % 4) + i % 2 of columns
// lane / 4 + 8 (i / 2 % 2).
using Fragment = float[8];

// A warpgroup's buffers in shared memory, rows of 64 columns and a pad that spreads them over the banks: the
// warps' fragments go in beside each other, and 8 columns of one token come out for each thread.
struct FragmentBuffers {
  static constexpr int row_bytes = (64 + 8) * 2, bytes = 16 * row_bytes;
  std::uint32_t matrix, mine;  // addresses for stmatrix, and for 16 bytes per thread
  __device__ explicit FragmentBuffers(const char* memory) {
    const int thread = threadIdx.x % 128, lane = thread % 32;
    const std::uint32_t base = shared_address(memory);
    matrix = base + ((lane >> 4) * 8 + lane % 8) * row_bytes + (thread / 32 * 16 + ((lane >> 3) & 1) * 8) * 2;
    mine = base + thread / 8 * row_bytes + thread % 8 * 16;
  }
  __device__ __forceinline__ void put(int buffer, const Fragment& f) const {
    const std::uint32_t v[4] = {pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]),
                                pack_bf16(f[6], f[7])};
    stmatrix4_transposed(matrix + buffer * bytes, v);
  }
  __device__ __forceinline__ uint4 load(int buffer) const { return load_shared(mine + buffer * bytes); }
};

// H = acc + bias, saved as bf16 where `h` is not null; A' = act(H) * p.
template <class Act>
struct FragmentForward {
  static_assert(Act::layout == UpLayout::halves);
  static constexpr bool paired_columns = true;
  static constexpr int staging_bytes = 4 * FragmentBuffers::bytes;  // two of A' in turn, two of H
  static constexpr bool shares_staging = false;
  static constexpr bool may_gather = true;
  using Arguments = ForwardArguments;
  using Prepared = RowWeights<kBlockRows>;
  static __device__ void finish() {}
  static __device__ int m_extent(const Arguments& args) { return args.inter_dim; }
  static __device__ __forceinline__ Prepared prepare(const Arguments& args, const TileOutput& tile) {
    return Prepared::load(args.row_weight, tile);
  }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Prepared& weights,
                                             const Accumulator<MaxN>& acc, const TileOutput& tile,
                                             char* staging, int warpgroup) {
    if (Act::clamps(args.parameters))
      run_chunks<true, true>(args, weights, acc, tile, staging, warpgroup);
    else if (args.bias != nullptr)
      run_chunks<false, true>(args, weights, acc, tile, staging, warpgroup);
    else
      run_chunks<false, false>(args, weights, acc, tile, staging, warpgroup);
  }

 private:
  template <bool Clamp, bool Bias, int MaxN>
  static __device__ __forceinline__ void run_chunks(const Arguments& args, const Prepared& weights,
                                                    const Accumulator<MaxN>& acc, const TileOutput& tile,
                                                    char* staging, int warpgroup) {
    const int thread = threadIdx.x % 128, lane = thread % 32, width = 2 * args.inter_dim;
    const FragmentBuffers buffers(staging);
    const int first = tile.strip * 64, i = first + thread % 8 * 8;
    float bias_gate[2] = {}, bias_up[2] = {};
    if (Bias && args.bias != nullptr)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int column = first + thread / 32 * 16 + lane / 4 + 8 * h;
        const __nv_bfloat16* bias = args.bias + std::int64_t(tile.expert) * width + column;
        if (column < args.inter_dim)
          bias_gate[h] = __bfloat162float(bias[0]), bias_up[h] = __bfloat162float(bias[args.inter_dim]);
      }
    const int rows = i < args.inter_dim ? tile.rows - thread / 8 : 0;  // of this thread
    const bool keeps = args.h != nullptr;
    __nv_bfloat16* a_out = args.a + (tile.row + thread / 8) * args.inter_dim + i;
    __nv_bfloat16* h_out = args.h + (tile.row + thread / 8) * width + i;
    const std::int64_t a_step = std::int64_t{16} * args.inter_dim, h_step = std::int64_t{16} * width;
    warpgroup_barrier(1 + warpgroup);  // the last tile's buffers have been read
#pragma unroll
    for (int c = 0; c < MaxN / 16; ++c) {
      if (c * 16 >= tile.rows) break;
      Fragment gate, up, a;
      float weight[4];
      weights.of_fragment(c, weight);
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        gate[k] = acc.d[0][8 * c + k] + (Bias ? bias_gate[k / 2 % 2] : 0.0f);
        up[k] = acc.d[1][8 * c + k] + (Bias ? bias_up[k / 2 % 2] : 0.0f);
        a[k] = Act::template forward<Clamp>(gate[k], up[k], args.parameters) * weight[k / 4 * 2 + k % 2];
      }
      buffers.put(c % 2, a);
      if (keeps) {
        if (c > 0) warpgroup_barrier(1 + warpgroup);  // the last tokens' H has been read
        buffers.put(2, gate), buffers.put(3, up);
      }
      warpgroup_barrier(1 + warpgroup);
      if (c * 16 < rows) {
        *reinterpret_cast<uint4*>(a_out) = buffers.load(c % 2);
        if (keeps) {
          *reinterpret_cast<uint4*>(h_out) = buffers.load(2);
          *reinterpret_cast<uint4*>(h_out + args.inter_dim) = buffers.load(3);
        }
      }
      a_out += a_step, h_out += h_step;
    }
  }
};

}  // namespace moeref::cuda::sm90
