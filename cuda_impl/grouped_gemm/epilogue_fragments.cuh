// The forward epilogue of activations whose gate and up columns are halves of H: on the accumulators as wgmma
// leaves them, where gate and up of one element lie in one thread. Each warp has 16 columns of its own and
// passes bf16 alone through its own shared memory, 16 tokens at a time: no warp waits for another, and a
// store to device memory is 32 contiguous bytes of a row. The same for the gradient was slower than
// epilogue_activation.cuh: it needs H as well, which spills registers.
#pragma once

#include "grouped_gemm/epilogue_activation.cuh"

namespace moeref::cuda::sm90 {

// 16 tokens x 16 columns of bf16: a row of 32 bytes and a pad that spreads rows over the banks.
constexpr int kFragmentRow = 48, kFragmentBytes = 16 * kFragmentRow;

// 16 tokens x 16 columns, of which a thread holds tokens 8 (i / 4) + 2 (lane % 4) + i % 2 of columns
// lane / 4 + 8 (i / 2 % 2).
using Fragment = float[8];

// The accumulator's registers must be compile-time constants; for a loop that is not unrolled.
template <int MaxN>
__device__ __forceinline__ void take_fragment(const Accumulator<MaxN>& acc, int b, int chunk, Fragment& out) {
#pragma unroll
  for (int c = 0; c < MaxN / 16; ++c)
    if (c == chunk) {
#pragma unroll
      for (int i = 0; i < 8; ++i) out[i] = acc.d[b][8 * c + i];
    }
}

// A warp's buffers in shared memory, and what this lane takes out of them: 8 columns of one token.
struct FragmentBuffer {
  std::uint32_t matrix, mine;  // addresses for stmatrix, and for 16 bytes a lane
  __device__ explicit FragmentBuffer(const char* memory) {
    const int lane = threadIdx.x % 32;
    const std::uint32_t base = shared_address(memory);
    matrix = base + ((lane >> 4) * 8 + lane % 8) * kFragmentRow + ((lane >> 3) & 1) * 16;
    mine = base + lane / 2 * kFragmentRow + lane % 2 * 16;
  }
  __device__ __forceinline__ void put(int buffer, const Fragment& f) const {
    const std::uint32_t v[4] = {pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]),
                                pack_bf16(f[6], f[7])};
    stmatrix4_transposed(matrix + buffer * kFragmentBytes, v);
  }
  __device__ __forceinline__ uint4 load(int buffer) const {
    return load_shared(mine + buffer * kFragmentBytes);
  }
};

// H = acc + bias, saved as bf16 where `h` is not null; A' = act(H) * p.
template <class Act>
struct FragmentForward {
  static_assert(Act::layout == UpLayout::halves);
  static constexpr bool paired_columns = true;
  static constexpr int staging_bytes = 4 * 3 * kFragmentBytes;
  using Arguments = ForwardArguments;
  static __device__ int m_extent(const Arguments& args) { return args.inter_dim; }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Accumulator<MaxN>& acc,
                                             const TileOutput& tile, char* staging, int warpgroup) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const FragmentBuffer buffer(staging + warp * 3 * kFragmentBytes);
    const int first = tile.m_tile * 128 + warpgroup * 64 + warp * 16, width = 2 * args.inter_dim;
    const int i = first + lane % 2 * 8;
    const bool clamp = Act::clamps(args.parameters);
    float bias_gate[2] = {}, bias_up[2] = {};
    if (args.bias != nullptr)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const __nv_bfloat16* bias = args.bias + std::int64_t(tile.expert) * width + first + lane / 4 + 8 * h;
        if (first + lane / 4 + 8 * h < args.inter_dim)
          bias_gate[h] = __bfloat162float(bias[0]), bias_up[h] = __bfloat162float(bias[args.inter_dim]);
      }
    const int mine = i < args.inter_dim ? tile.rows - lane / 2 : 0;  // rows from this lane's first one on
    __nv_bfloat16* a_out = args.a + (tile.row + lane / 2) * args.inter_dim + i;
    __nv_bfloat16* h_out = args.h + (tile.row + lane / 2) * width + i;
    const std::int64_t a_step = std::int64_t{16} * args.inter_dim, h_step = std::int64_t{16} * width;
    const bool keeps = args.h != nullptr, weighted = args.row_weight != nullptr;
    float weight[4] = {1, 1, 1, 1}, next[4] = {1, 1, 1, 1};  // of this thread's tokens
    const auto load_weights = [&](int chunk) {
      if (!weighted) return;
      const int n = chunk * 16 + lane % 4 * 2;
#pragma unroll
      for (int t = 0; t < 4; ++t)
        if (n + t / 2 * 8 + t % 2 < tile.rows) next[t] = args.row_weight[tile.row + n + t / 2 * 8 + t % 2];
    };
    load_weights(0);
    const auto finish = [&]<bool Extras>(int c, Fragment& gate, Fragment& up) {
#pragma unroll
      for (int t = 0; t < 4; ++t) weight[t] = next[t];
      load_weights(c + 1);
      Fragment a;
      if constexpr (Extras) {
#pragma unroll
        for (int k = 0; k < 8; ++k) gate[k] += bias_gate[k / 2 % 2], up[k] += bias_up[k / 2 % 2];
      }
      if (Extras && clamp)
#pragma unroll
        for (int k = 0; k < 8; ++k) a[k] = Act::template forward<true>(gate[k], up[k], args.parameters);
      else
#pragma unroll
        for (int k = 0; k < 8; ++k) a[k] = Act::template forward<false>(gate[k], up[k], args.parameters);
#pragma unroll
      for (int k = 0; k < 8; ++k) a[k] *= weight[k / 4 * 2 + k % 2];
      __syncwarp();  // the last tokens' buffers have been read
      buffer.put(0, a);
      if (keeps) buffer.put(1, gate), buffer.put(2, up);
      __syncwarp();
      if (c * 16 < mine) {
        *reinterpret_cast<uint4*>(a_out) = buffer.load(0);
        if (keeps) {
          *reinterpret_cast<uint4*>(h_out) = buffer.load(1);
          *reinterpret_cast<uint4*>(h_out + args.inter_dim) = buffer.load(2);
        }
      }
      a_out += a_step, h_out += h_step;
    };
    if (clamp || args.bias != nullptr) {
#pragma unroll 1
      for (int c = 0; c * 16 < tile.rows; ++c) {
        Fragment gate, up;
        take_fragment(acc, 0, c, gate);
        take_fragment(acc, 1, c, up);
        finish.template operator()<true>(c, gate, up);
      }
    } else {
#pragma unroll
      for (int c = 0; c < MaxN / 16; ++c) {
        if (c * 16 >= tile.rows) break;
        Fragment gate, up;
#pragma unroll
        for (int k = 0; k < 8; ++k) gate[k] = acc.d[0][8 * c + k], up[k] = acc.d[1][8 * c + k];
        finish.template operator()<false>(c, gate, up);
      }
    }
  }
};

}  // namespace moeref::cuda::sm90
