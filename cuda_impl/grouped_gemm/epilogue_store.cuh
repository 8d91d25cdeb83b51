// The epilogue that stores the product: C[n][m] as bf16 (rows of the result run along N), through shared
// memory so that the stores to device memory are 16 bytes a thread and at least 128 contiguous bytes a row.
#pragma once

#include "grouped_gemm/pipeline_sm90.cuh"

namespace moeref::cuda::sm90 {

// Where a tile's results go: row 0 of N is row `row` of the matrix, `rows` of them are valid.
struct TileOutput {
  int expert;
  std::int64_t row;
  int rows;
  int m_tile;
};

// out[row + n][m] = acc * row_scale + bias * bias_scale, with row_scale and bias_scale 1 or the row's routing
// weight.
struct StoreRows {
  static constexpr bool paired_columns = false;
  static constexpr int staging_bytes = 32 * 136 * 2;
  struct Arguments {
    __nv_bfloat16* out;
    std::int64_t row_stride;
    int width;
    const __nv_bfloat16* bias;  // [E, width] or null
    const float* row_weight;    // by row, or null: all 1
    bool scale_product;         // else only the bias is scaled
  };
  static __device__ int m_extent(const Arguments& args) { return args.width; }

  template <int MaxN>
  static __device__ __forceinline__ void run(const Arguments& args, const Accumulator<MaxN>& acc,
                                             const TileOutput& tile, char* staging, int warpgroup) {
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
    const int column = tile.m_tile * kBlockM + warpgroup * 128;
    __nv_bfloat16* tilebuf = reinterpret_cast<__nv_bfloat16*>(staging);
    const std::uint32_t matrix_row =
        shared_address(tilebuf + ((lane >> 4) * 8 + lane % 8) * 136 + warp * 16 + ((lane >> 3) & 1) * 8);
    float bias[2][2] = {};
    if (args.bias != nullptr)
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int m = column + b * 64 + warp * 16 + lane / 4 + h * 8;
          if (m < args.width)
            bias[b][h] = __bfloat162float(args.bias[std::int64_t(tile.expert) * args.width + m]);
        }
#pragma unroll 1
    for (int c = 0; c * 32 < tile.rows; ++c) {
      float product_scale[8], bias_scale[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int n = c * 32 + (i / 2) * 8 + (lane % 4) * 2 + i % 2;
        bias_scale[i] = args.row_weight != nullptr && n < tile.rows ? args.row_weight[tile.row + n] : 1.0f;
        product_scale[i] = args.scale_product ? bias_scale[i] : 1.0f;
      }
      warpgroup_barrier(1 + warpgroup);
#pragma unroll
      for (int unrolled = 0; unrolled < MaxN / 32;
           ++unrolled)  // the accumulator's registers must be constants
        if (unrolled == c) {
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int b = 0; b < 2; ++b) {
              std::uint32_t v[4];
#pragma unroll
              for (int i = 0; i < 4; ++i) {  // i: 8-column group (high bit), row half (low bit)
                const int at = 4 * (4 * unrolled + 2 * half + i / 2) + 2 * (i % 2), s = 4 * half + i / 2 * 2;
                v[i] =
                    pack_bf16(acc.d[b][at] * product_scale[s] + bias[b][i % 2] * bias_scale[s],
                              acc.d[b][at + 1] * product_scale[s + 1] + bias[b][i % 2] * bias_scale[s + 1]);
              }
              stmatrix4_transposed(matrix_row + (half * 16 * 136 + b * 64) * 2, v);
            }
        }
      warpgroup_barrier(1 + warpgroup);
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int n = thread / 16 + q * 8, m = thread % 16 * 8;
        if (c * 32 + n < tile.rows && column + m < args.width)
          *reinterpret_cast<uint4*>(args.out + (tile.row + c * 32 + n) * args.row_stride + column + m) =
              *reinterpret_cast<const uint4*>(tilebuf + n * 136 + m);
      }
    }
  }
};

}  // namespace moeref::cuda::sm90
