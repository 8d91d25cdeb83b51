// Grouped product over a varying K: for each expert e, G_e[m][n] = sum over its rows r of rows[r][m] *
// tokens[row_token[r]][n], stored as [m][n], or as [n][m] when Transposed. An expert without rows gets exact
// zeros.
//   dW_gate_up [D, 2I]: rows = dH (M = 2I), tokens = X (N = D), transposed.   dW_down [I, D]: rows = A',
//   tokens = dY.
//
// Tile 256 x 128 x 64, four stages of 48 KiB; persistent; 128 columns of N a block, or clusters of two blocks
// with half each of 256; N fastest, so that a column block of `rows` is read once and `tokens` stays in L2.
// Both operands are MN-major. `rows` comes by TMA, but for an expert's last block by cp.async with zero fill:
// rows of the next expert, or unwritten ones, must not enter as 0 * NaN. Floor: 2 R M N flops, and 2 E M N
// bytes written, which is the larger term under about 250 rows an expert.
#pragma once

#include "grouped_gemm/epilogue_store.cuh"
#include "permutation/tile_split.hpp"

namespace moeref::cuda::sm90 {

struct WeightGradientShape {
  const int* offsets;
  const int* row_token;
  const __nv_bfloat16* rows;    // [R, m_width], also behind the tensor map
  const __nv_bfloat16* tokens;  // [T, n_width]
  __nv_bfloat16* out;
  int m_width, n_width, experts, m_tiles, n_tiles;
};

struct GradientTile {
  int expert, m;
  int n, columns;  // first column of N, and how many; none where the cluster's first block takes all
  int begin, rows;
};

template <int Cluster>
__device__ __forceinline__ GradientTile locate(const WeightGradientShape& s, int work, int rank) {
  const int per_expert = s.m_tiles * s.n_tiles, e = work / per_expert, rest = work - e * per_expert;
  const int begin = s.offsets[e], n = rest % s.n_tiles * 128 * Cluster,
            both = min(128 * Cluster, s.n_width - n), half = Cluster == 2 ? half_tile(both) : both;
  return {e,     rest / s.n_tiles,        n + rank * half, rank ? max(both - half, 0) : min(half, both),
          begin, s.offsets[e + 1] - begin};
}

template <class Layout>
__device__ __forceinline__ void produce_gradient(const CUtensorMap& rows_map, const WeightGradientShape& s,
                                                 std::uint32_t base) {
  const int thread = threadIdx.x - 256, total = s.experts * s.m_tiles * s.n_tiles;
  constexpr int cluster = Layout::cluster;
  const int chunk = thread % 16, first_row = thread / 16, rank = rank_in_cluster<Layout>();
  PipelineState<Layout> pipe;
  pipe.phase = 1;
  for (int work = blockIdx.x / cluster; work < total; work += gridDim.x / cluster) {
    const GradientTile tile = locate<cluster>(s, work, rank);
    const int n = tile.n + chunk * 8, k_blocks = (tile.rows + kBlockK - 1) / kBlockK;
    const bool n_inside = chunk * 8 < tile.columns;
    const __nv_bfloat16* column = s.tokens + (n_inside ? n : 0);
    const auto load_tokens = [&](int kb, int(&token)[8]) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = kb * kBlockK + first_row + 8 * i;
        token[i] = r < tile.rows ? s.row_token[tile.begin + r] : -1;
      }
    };
    int token[8], next_token[8];
    load_tokens(0, token);
    for (int kb = 0; kb < k_blocks; ++kb) {
      load_tokens(kb + 1, next_token);  // a block ahead: their latency is longer than a step
      const std::uint32_t full = Layout::full(base, pipe.stage), a = Layout::a(base, pipe.stage),
                          b = Layout::b(base, pipe.stage);
      const bool whole = (kb + 1) * kBlockK <= tile.rows;
      mbarrier_wait(Layout::empty(base, pipe.stage), pipe.phase);
      if (thread == 0) {
        if (whole) {
          mbarrier_arrive_expect(full, Layout::a_bytes);
#pragma unroll
          for (int i = 0; i < 4 / cluster; ++i) {
            const int box = 4 / cluster * rank + i;
            load_box<cluster>(a + box * kBlock64Bytes, rows_map, full, tile.m * kBlockM + box * 64,
                              tile.begin + kb * kBlockK, 0);
          }
        } else {
          mbarrier_arrive(full);
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = first_row + 8 * i;
        cp_async(b + (chunk / 8) * kBlock64Bytes + r * 128 + (((chunk % 8) ^ (r & 7)) << 4),
                 column + std::int64_t(max(token[i], 0)) * s.n_width, n_inside && token[i] >= 0 ? 16 : 0);
      }
      if (!whole) {
#pragma unroll 1
        for (int i = thread; i < kBlockK * 32; i += 128) {
          const int r = i / 32, c = i % 32, m = tile.m * kBlockM + c * 8, row = kb * kBlockK + r;
          const bool inside = row < tile.rows && m < s.m_width;
          cp_async(a + (c / 8) * kBlock64Bytes + r * 128 + (((c % 8) ^ (r & 7)) << 4),
                   s.rows + (inside ? std::int64_t(tile.begin + row) * s.m_width + m : 0), inside ? 16 : 0);
        }
      }
      cp_async_arrive(full);
      pipe.advance();
#pragma unroll
      for (int i = 0; i < 8; ++i) token[i] = next_token[i];
    }
  }
}

template <class Layout, bool Transposed>
__global__ void __launch_bounds__(kThreads, 1)
    weight_gradient(const __grid_constant__ CUtensorMap rows_map,
                    const __grid_constant__ WeightGradientShape s) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = shared_address(shared);
  initialise_barriers<Layout>(base, 129);
  if (threadIdx.x >= 256) {
    set_registers_down<kProducerRegisters>();
    produce_gradient<Layout>(rows_map, s, base);
  } else {
    set_registers_up<kConsumerRegisters>();
    const int warpgroup = threadIdx.x / 128, total = s.experts * s.m_tiles * s.n_tiles;
    PipelineState<Layout> pipe;
    Accumulator<Layout::max_n> acc;
    constexpr int cluster = Layout::cluster;
    const int rank = rank_in_cluster<Layout>(), first = blockIdx.x / cluster, step = gridDim.x / cluster;
    GradientTile next = locate<cluster>(s, min(first, total - 1), rank);
    for (int work = first; work < total; work += step) {
      const GradientTile tile = next;
      const auto find_next = [&] { next = locate<cluster>(s, min(work + step, total - 1), rank); };
      const int k_blocks = (tile.rows + kBlockK - 1) / kBlockK;
      if (tile.columns == 0 || tile.m * kBlockM + warpgroup * 128 >= s.m_width) {
        find_next();
        skip(base, k_blocks, pipe);
        continue;
      }
      accumulate<Layout, true, true>(acc, base, warpgroup, (tile.columns + 15) / 16 * 16, k_blocks, pipe,
                                     find_next);
      __nv_bfloat16* out = s.out + std::int64_t(tile.expert) * s.m_width * s.n_width;
      const TileOutput at{tile.expert, tile.n, tile.columns, tile.m};
      char* staging = shared + Layout::staging + warpgroup * Layout::staging_bytes;
      if constexpr (Transposed)
        StoreRows::run({out, s.m_width, s.m_width, nullptr, nullptr, false}, acc, at, staging, warpgroup);
      else
        StoreColumns::run(out, s.n_width, s.m_width, acc, at, staging, warpgroup);
    }
  }
  leave<Layout>();
}

}  // namespace moeref::cuda::sm90
