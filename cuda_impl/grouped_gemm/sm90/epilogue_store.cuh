// The epilogue that stores the product: C[n][m] as bf16 (rows of the result run along N), through shared
// memory so that the stores to device memory are 16 bytes per thread and at least 128 contiguous bytes per
// row.
#pragma once

#include <type_traits>

#include "cuda_impl/grouped_gemm/sm90/pipeline.cuh"
#include "cuda_impl/permutation/tile_split.hpp"

namespace moeref::cuda::sm90 {

// Where a tile's results go: row 0 of N is row `row` of the matrix, `rows` of them are valid.
struct TileOutput {
  int expert;
  std::int64_t row;
  int rows;
  int strip;  // of 128 rows of M, or 64 pairs of them
};

/// Routing weights of a tile's rows, row 32 i + lane in v[i], so that each is read once and in time: before
/// the last products of the tile have ended. 1 where there are none.
template <int MaxRows>
struct RowWeights {
  float v[MaxRows / 32];
  static __device__ __forceinline__ RowWeights load(const float* row_weight, const TileOutput& tile) {
    RowWeights out;
#pragma unroll
    for (int i = 0; i < MaxRows / 32; ++i) {
      const int n = 32 * i + threadIdx.x % 32;
      out.v[i] = row_weight != nullptr && n < tile.rows ? row_weight[tile.row + n] : 1.0f;
    }
    return out;
  }
  /// Of rows 16 chunk + 2 (lane % 4) + 8 (t / 2) + t % 2, those of a thread's fragment; chunk: a constant.
  __device__ __forceinline__ void of_fragment(int chunk, float (&out)[4]) const {
#pragma unroll
    for (int t = 0; t < 4; ++t)
      out[t] =
          __shfl_sync(0xffffffffu, v[chunk / 2], chunk % 2 * 16 + threadIdx.x % 4 * 2 + t / 2 * 8 + t % 2);
  }
};
struct NoRowWeights {
  static __device__ __forceinline__ NoRowWeights load(const float*, const TileOutput&) { return {}; }
  __device__ __forceinline__ void of_fragment(int, float (&out)[4]) const {
    out[0] = out[1] = out[2] = out[3] = 1;
  }
};

struct StoreRowsArguments {
  __nv_bfloat16* out;
  std::int64_t row_stride;
  int width;
  // The rest where Scaled.
  const __nv_bfloat16* bias;  // [E, width] or null
  const float* row_weight;    // by row, or null: all 1
  bool scale_product;         // else only the bias is scaled
};

/// What both epilogues below store for a thread's fragments.
template <bool Scaled>
struct StoredValues {
  using Prepared = std::conditional_t<Scaled, RowWeights<kBlockRows>, NoRowWeights>;
  bool scale_product;
  float bias[2][2] = {};  // of the thread's rows of M: 64 b + 16 warp + lane / 4 + 8 h

  __device__ __forceinline__ StoredValues(const StoreRowsArguments& args, const TileOutput& tile)
      : scale_product(args.scale_product) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    if (Scaled && args.bias != nullptr)
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = tile.strip * kStrip + b * 64 + warp * 16 + lane / 4 + h * 8;
          if (at < args.width)
            bias[b][h] = __bfloat162float(args.bias[std::int64_t(tile.expert) * args.width + at]);
        }
  }

  /// Tokens 16 c to 16 c + 15 of the warp's 16 rows of M in each half of the strip, as stmatrix wants them;
  /// c: a constant.
  template <int MaxN>
  __device__ __forceinline__ void pack(const Prepared& weights, const Accumulator<MaxN>& acc, int c,
                                       std::uint32_t (&v)[2][4]) const {
    float product_scale[4], bias_scale[4];
    weights.of_fragment(c, bias_scale);
#pragma unroll
    for (int i = 0; i < 4; ++i) product_scale[i] = Scaled && scale_product ? bias_scale[i] : 1.0f;
#pragma unroll
    for (int b = 0; b < 2; ++b)
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // i: 8-column group (high bit), row half (low bit)
        const int at = 4 * (2 * c + i / 2) + 2 * (i % 2), s = i / 2 * 2;
        if constexpr (Scaled)
          v[b][i] = pack_bf16(acc.d[b][at] * product_scale[s] + bias[b][i % 2] * bias_scale[s],
                              acc.d[b][at + 1] * product_scale[s + 1] + bias[b][i % 2] * bias_scale[s + 1]);
        else
          v[b][i] = pack_bf16(acc.d[b][at], acc.d[b][at + 1]);
      }
  }
};

/// Rows of a strip in shared memory, with a pad that spreads them over the banks.
constexpr int kStoredRowBytes = (kStrip + 8) * 2;

/// The lane's address for stmatrix of 16 tokens from row 0 of `staging`.
__device__ __forceinline__ std::uint32_t stored_matrix_row(std::uint32_t staging) {
  const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  return staging + ((lane >> 4) * 8 + lane % 8) * kStoredRowBytes + (warp * 16 + ((lane >> 3) & 1) * 8) * 2;
}

// out[row + n][m] = acc, or where Scaled acc * row_scale + bias * bias_scale, with row_scale and bias_scale 1
// or the row's routing weight. 16 tokens at a time through two buffers in turn: what the warpgroup reads from
// one is out of it when the next barrier lets the other be read.
template <bool Scaled>
struct StoreRows {
  static constexpr bool paired_columns = false, shares_staging = false;
  static constexpr bool may_gather = false;
  static constexpr int buffer_bytes = 16 * kStoredRowBytes, staging_bytes = 2 * buffer_bytes;
  using Arguments = StoreRowsArguments;
  using Prepared = typename StoredValues<Scaled>::Prepared;
  static __device__ void finish() {}
  static __device__ int m_extent(const Arguments& args) { return args.width; }
  static __device__ __forceinline__ Prepared prepare(const Arguments& args, const TileOutput& tile) {
    return Prepared::load(args.row_weight, tile);
  }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Prepared& weights,
                                             const Accumulator<MaxN>& acc, const TileOutput& tile,
                                             char* staging, int warpgroup) {
    const int thread = threadIdx.x % 128, column = tile.strip * kStrip, m = thread % 16 * 8,
              first = thread / 16;
    const std::uint32_t base = shared_address(staging), matrix_row = stored_matrix_row(base),
                        mine = base + first * kStoredRowBytes + m * 2;
    const std::int64_t eight_rows = 8 * args.row_stride;
    __nv_bfloat16* out = args.out + (tile.row + first) * args.row_stride + column + m;
    const int rows = column + m < args.width ? tile.rows - first : 0;  // of this thread
    const StoredValues<Scaled> values(args, tile);
    warpgroup_barrier(1 + warpgroup);  // the last tile's buffers have been read
#pragma unroll
    for (int c = 0; c < MaxN / 16; ++c) {
      if (c * 16 >= tile.rows) break;
      const int buffer = c % 2 * buffer_bytes;
      std::uint32_t v[2][4];
      values.pack(weights, acc, c, v);
#pragma unroll
      for (int b = 0; b < 2; ++b) stmatrix4_transposed(matrix_row + buffer + b * 128, v[b]);
      warpgroup_barrier(1 + warpgroup);
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        if (c * 16 + q * 8 < rows)
          *reinterpret_cast<uint4*>(out) = load_shared(mine + buffer + q * 8 * kStoredRowBytes);
        out += eight_rows;
      }
    }
  }
};

// The same for warpgroups that take turns: the tile's strip at once, and its rows leave by bulk copies, a row
// each, while the warpgroup goes on.
template <bool Scaled>
struct StoreRowsInBulk {
  static constexpr bool paired_columns = false, shares_staging = true;
  static constexpr bool may_gather = false;
  static constexpr int staging_bytes = kBlockRows * kStoredRowBytes;
  using Arguments = StoreRowsArguments;
  using Prepared = typename StoredValues<Scaled>::Prepared;
  static __device__ void finish() { tma_store_wait_all(); }
  static __device__ int m_extent(const Arguments& args) { return args.width; }
  static __device__ __forceinline__ Prepared prepare(const Arguments& args, const TileOutput& tile) {
    return Prepared::load(args.row_weight, tile);
  }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Prepared& weights,
                                             const Accumulator<MaxN>& acc, const TileOutput& tile,
                                             char* staging, int warpgroup) {
    const std::uint32_t base = shared_address(staging), matrix_row = stored_matrix_row(base);
    const StoredValues<Scaled> values(args, tile);
#pragma unroll
    for (int c = 0; c < MaxN / 16; ++c) {
      if (c * 16 >= tile.rows) break;
      std::uint32_t v[2][4];
      values.pack(weights, acc, c, v);
#pragma unroll
      for (int b = 0; b < 2; ++b) stmatrix4_transposed(matrix_row + c * 16 * kStoredRowBytes + b * 128, v[b]);
    }
    fence_shared_for_async();
    warpgroup_barrier(1 + warpgroup);
    const int column = tile.strip * kStrip, bytes = min(kStrip, args.width - column) * 2;
    for (int n = threadIdx.x % 128; n < tile.rows; n += 128)
      bulk_store(args.out + (tile.row + n) * args.row_stride + column, base + n * kStoredRowBytes, bytes);
    tma_store_commit();
    tma_store_wait_read<0>();  // the other warpgroup writes there next
    __syncwarp();
  }
};

}  // namespace moeref::cuda::sm90
