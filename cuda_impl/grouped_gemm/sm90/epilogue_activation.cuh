// Epilogues around the activation. The fp32 accumulator passes through shared memory 16 tokens at a time, so
// that each thread then holds 8 neighbouring columns of one token, for every layout of gate and up.
#pragma once

#include "cuda_impl/activation/activation_math.cuh"
#include "cuda_impl/grouped_gemm/sm90/epilogue_store.cuh"

namespace moeref::cuda::sm90 {

constexpr int kStagedRow =
    132;  // floats: 16 rows of 128 and a pad that spreads the accumulator's columns over the banks
constexpr int kStagedBytes = 16 * kStagedRow * 4;

// Only this step, whose registers must be compile-time constants, exists once per chunk;
// the rest of the epilogue is a loop.
template <int MaxN>
__device__ __forceinline__ void stage_tokens(const Accumulator<MaxN>& acc, int chunk, float* staging) {
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  float* mine = staging + (lane % 4) * 2 * kStagedRow + warp * 16 + lane / 4;
#pragma unroll
  for (int c = 0; c < MaxN / 16; ++c)
    if (c == chunk) {
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int i = 0; i < 8; ++i)
          mine[((i / 4) * 8 + i % 2) * kStagedRow + b * 64 + (i / 2 % 2) * 8] = acc.d[b][8 * c + i];
    }
}

// 8 staged floats from s[0]; neighbouring lanes read the halves in opposite order to keep to different banks.
__device__ __forceinline__ void load_staged(const float* s, int lane, float (&v)[8]) {
  const bool swap = lane >> 2 & 1;
  const float4 x = *reinterpret_cast<const float4*>(s + (swap ? 4 : 0));
  const float4 y = *reinterpret_cast<const float4*>(s + (swap ? 0 : 4));
  const float4 lo = swap ? y : x, hi = swap ? x : y;
  v[0] = lo.x, v[1] = lo.y, v[2] = lo.z, v[3] = lo.w, v[4] = hi.x, v[5] = hi.y, v[6] = hi.z, v[7] = hi.w;
}

// Loads the 8 gates and 8 ups of inner columns i .. i + 7 from a row of H (or of its bias), as they lie in
// memory.
template <UpLayout Layout>
__device__ __forceinline__ void load_pair(const __nv_bfloat16* row, int i, int inter_dim, uint4 (&v)[2],
                                          bool valid = true) {
  if constexpr (Layout == UpLayout::halves) {
    load_if(valid, v[0], row + i);
    load_if(valid, v[1], row + inter_dim + i);
  } else if constexpr (Layout == UpLayout::interleaved) {
    load_if(valid, v[0], row + 2 * i);
    load_if(valid, v[1], row + 2 * i + 8);
  } else {
    load_if(valid, v[0], row + i);
    v[1] = v[0];
  }
}
template <UpLayout Layout>
__device__ __forceinline__ void store_pair(__nv_bfloat16* row, int i, int inter_dim, const float (&gate)[8],
                                           const float (&up)[8], bool valid = true) {
  if constexpr (Layout == UpLayout::halves) {
    store_if(valid, row + i, pack_bf16(gate));
    store_if(valid, row + inter_dim + i, pack_bf16(up));
  } else if constexpr (Layout == UpLayout::interleaved) {
    uint4 v[2];
    std::uint32_t* w = &v[0].x;
#pragma unroll
    for (int k = 0; k < 8; ++k) w[k] = pack_bf16(gate[k], up[k]);
    store_if(valid, row + 2 * i, v[0]);
    store_if(valid, row + 2 * i + 8, v[1]);
  } else {
    store_if(valid, row + i, pack_bf16(up));
  }
}
template <UpLayout Layout>
__device__ __forceinline__ void unpack_pair(const uint4 (&v)[2], float (&gate)[8], float (&up)[8]) {
  float a[8], b[8];
  unpack_bf16(v[0], a);
  unpack_bf16(v[1], b);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if constexpr (Layout == UpLayout::interleaved) {
      gate[k] = k < 4 ? a[2 * (k % 4)] : b[2 * (k % 4)];
      up[k] = k < 4 ? a[2 * (k % 4) + 1] : b[2 * (k % 4) + 1];
    } else {
      gate[k] = a[k], up[k] = b[k];
    }
  }
}

/// Of the forward epilogues, here and in epilogue_fragments.cuh.
struct ForwardArguments {
  __nv_bfloat16* h;           // [R, up_width] or null
  __nv_bfloat16* a;           // [R, I]
  const __nv_bfloat16* bias;  // [E, up_width] or null
  const float* row_weight;    // [R], or null: all 1
  int inter_dim;
  ActivationParameters parameters;
};

// H = acc + bias, saved as bf16 where `h` is not null; A' = act(H) * p. For gate and up in halves see
// epilogue_fragments.cuh.
template <class Act>
struct ActivationForward {
  static_assert(Act::layout != UpLayout::halves);
  static constexpr bool paired_columns = false;
  static constexpr int staging_bytes = kStagedBytes;
  static constexpr bool shares_staging = false;
  static constexpr bool may_gather = true;
  using Arguments = ForwardArguments;
  using Prepared = NoRowWeights;
  static __device__ Prepared prepare(const Arguments&, const TileOutput&) { return {}; }
  static __device__ void finish() {}
  static __device__ int m_extent(const Arguments& args) {
    return Act::layout == UpLayout::interleaved ? 2 * args.inter_dim : args.inter_dim;
  }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Prepared&,
                                             const Accumulator<MaxN>& acc, const TileOutput& tile,
                                             char* staging_memory, int warpgroup) {
    constexpr bool gated = Act::layout != UpLayout::up_only;
    constexpr int columns = gated ? 64 : 128, units = columns / 8, per_thread = gated ? 1 : 2;
    float* staging = reinterpret_cast<float*>(staging_memory);
    const int thread = threadIdx.x % 128, unit = thread % units, first_token = thread / units;
    const int i = tile.strip * columns + unit * 8;
    const int width = gated ? 2 * args.inter_dim : args.inter_dim;
    const bool inside = i < args.inter_dim, clamp = Act::clamps(args.parameters);
    uint4 bias[2] = {};
    if (args.bias != nullptr && inside)
      load_pair<Act::layout>(args.bias + std::int64_t(tile.expert) * width, i, args.inter_dim, bias);
    auto weight = [&](int n) {
      return args.row_weight != nullptr && n < tile.rows ? args.row_weight[tile.row + n] : 1.0f;
    };
    float next[per_thread];
#pragma unroll
    for (int q = 0; q < per_thread; ++q) next[q] = weight(first_token + q * 8);
#pragma unroll 1
    for (int c = 0; c * 16 < tile.rows; ++c) {
      warpgroup_barrier(1 + warpgroup);
      stage_tokens(acc, c, staging);
      warpgroup_barrier(1 + warpgroup);
#pragma unroll
      for (int q = 0; q < per_thread; ++q) {
        const int token = first_token + q * 8, n = c * 16 + token;
        const float p = next[q];
        next[q] = weight(n + 16);
        if (!inside || n >= tile.rows) continue;
        const float* s = staging + token * kStagedRow;
        float gate[8], up[8], bias_gate[8], bias_up[8], a[8];
        if constexpr (Act::layout == UpLayout::interleaved) {
          float v[2][8];
          load_staged(s + unit * 16, thread, v[0]);
          load_staged(s + unit * 16 + 8, thread, v[1]);
#pragma unroll
          for (int k = 0; k < 8; ++k) gate[k] = v[k / 4][2 * (k % 4)], up[k] = v[k / 4][2 * (k % 4) + 1];
        } else {
          load_staged(s + unit * 8, thread, up);
#pragma unroll
          for (int k = 0; k < 8; ++k) gate[k] = 0;
        }
        unpack_pair<Act::layout>(bias, bias_gate, bias_up);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          if constexpr (gated) gate[k] += bias_gate[k];
          up[k] += bias_up[k];
        }
        if (clamp)
#pragma unroll
          for (int k = 0; k < 8; ++k) a[k] = Act::template forward<true>(gate[k], up[k], args.parameters) * p;
        else
#pragma unroll
          for (int k = 0; k < 8; ++k)
            a[k] = Act::template forward<false>(gate[k], up[k], args.parameters) * p;
        if (args.h != nullptr)
          store_pair<Act::layout>(args.h + (tile.row + n) * width, i, args.inter_dim, gate, up);
        *reinterpret_cast<uint4*>(args.a + (tile.row + n) * args.inter_dim + i) = pack_bf16(a);
      }
    }
  }
};

// acc = dY W_down^T. With H saved: dH = p acc act'(H), A' = p act(H) for the down weights' gradient, and the
// part of this warpgroup's 128 columns in the router gradient's row dot product acc . act(H).
template <class Act>
struct ActivationBackward {
  static constexpr bool paired_columns = false;
  static constexpr int staging_bytes = kStagedBytes;
  static constexpr bool shares_staging = false;
  static constexpr bool may_gather = false;
  struct Arguments {
    const __nv_bfloat16* h;   // [R, up_width]
    __nv_bfloat16* dh;        // [R, up_width]
    __nv_bfloat16* a;         // [R, I]
    const float* row_weight;  // [R]
    float* dot_parts;         // [R, ceil(I / 128)]
    int inter_dim;
    ActivationParameters parameters;
  };
  using Prepared = NoRowWeights;
  static __device__ Prepared prepare(const Arguments&, const TileOutput&) { return {}; }
  static __device__ void finish() {}
  static __device__ int m_extent(const Arguments& args) { return args.inter_dim; }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Prepared&,
                                             const Accumulator<MaxN>& acc, const TileOutput& tile,
                                             char* staging_memory, int warpgroup) {
    if (Act::clamps(args.parameters))
      run_chunks<true>(args, acc, tile, reinterpret_cast<float*>(staging_memory), warpgroup);
    else
      run_chunks<false>(args, acc, tile, reinterpret_cast<float*>(staging_memory), warpgroup);
  }

 private:
  static constexpr bool gated = Act::layout != UpLayout::up_only;

  /// 16 threads per token, each with 8 columns of it, two tokens at a time. H comes one chunk ahead.
  template <bool Clamp, int MaxN>
  static __device__ __forceinline__ void run_chunks(const Arguments& args, const Accumulator<MaxN>& acc,
                                                    const TileOutput& tile, float* staging, int warpgroup) {
    const int thread = threadIdx.x % 128, unit = thread % 16, first = thread / 16;
    const int part = tile.strip, parts = (args.inter_dim + 127) / 128;
    const int i = part * 128 + unit * 8, width = gated ? 2 * args.inter_dim : args.inter_dim;
    const bool inside = i < args.inter_dim;
    const int rows = tile.rows - first, rows_inside = inside ? rows : 0;  // from this thread's first one on
    const std::int64_t row = tile.row + first, eight_rows = std::int64_t{8} * width;
    std::int64_t ahead = row * width;  // of H's next row to be loaded; all other places follow from it
    const float* weight = args.row_weight + row;
    const float* staged = staging + first * kStagedRow + unit * 8;
    uint4 h[2][2][2] = {};  // of two chunks in turn
    float weights[2][2] = {};
    const auto load_chunk = [&](int c) {
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        const int n = c * 16 + q * 8;
        load_pair<Act::layout>(args.h + ahead, i, args.inter_dim, h[c % 2][q], n < rows_inside);
        load_if(n < rows_inside, weights[c % 2][q], weight + n);
        ahead += eight_rows;
      }
    };
    load_chunk(0);
#pragma unroll
    for (int c = 0; c < MaxN / 16; ++c) {
      if (c * 16 >= tile.rows) break;
      warpgroup_barrier(1 + warpgroup);
      stage_tokens(acc, c, staging);
      load_chunk(c + 1);
      warpgroup_barrier(1 + warpgroup);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        const int n = c * 16 + q * 8;
        const float p = weights[c % 2][q];
        float gate[8], up[8], d[8], a[8], dot = 0;
        unpack_pair<Act::layout>(h[c % 2][q], gate, up);
        load_staged(staged + q * 8 * kStagedRow, thread, d);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const ActivationGradient g =
              Act::template backward<Clamp>(gate[k], up[k], d[k] * p, args.parameters);
          dot += d[k] * g.value;
          a[k] = g.value * p, gate[k] = g.gate, up[k] = g.up;
        }
        const std::int64_t at = ahead - (4 - q) * eight_rows;
        store_pair<Act::layout>(args.dh + at, i, args.inter_dim, gate, up, n < rows_inside);
        store_if(n < rows_inside, args.a + (at >> gated) + i, pack_bf16(a));
        if (!inside) dot = 0;
#pragma unroll
        for (int lanes = 8; lanes > 0; lanes /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, lanes);
        store_if(unit == 0 && n < rows, args.dot_parts + (row + n) * parts + part, dot);
      }
    }
  }
};

}  // namespace moeref::cuda::sm90
