// Grouped product over a varying K: for each expert e, G_e[m][n] = sum over its rows r of left[r][m] *
// right[r][n]. An expert without rows gets exact zeros.
//   dW_gate_up [D, 2I]: left = X, right = dH.   dW_down [I, D]: left = A', right = dY; X and dY by row.
//
// Tile 128 (M) x 256 (N) x 64, four stages of 48 KiB, both operands MN-major by TMA; persistent, one block a
// multiprocessor, or clusters of two blocks with neighbouring M and the same N, each loading half of `right`
// into both. A warpgroup has 64 x 256: wgmma's widest form, which reads least of shared memory for each flop.
// Tiles run fastest along the narrower matrix, which stays in L2 while the wider one streams by. The result
// leaves by TMA, each warp's through its own 4 KiB, while the next tile's stages come in.
//
// An expert's last stage is multiplied only up to the next multiple of 16 rows, and of those it may hold rows
// of the next expert, or unwritten ones, which must not enter as 0 * NaN: a warp of its own overwrites them
// with zeros before the consumers see the stage. Floor: 2 R M N flops, and 2 E M N bytes written, which is
// the larger term under about 250 rows an expert. Measured on an H200: 610 TF at 2048 rows an expert (dense
// 675), 390 at 256, where a tile's stores stand between its products and the next tile's (bench/results).
#pragma once

#include <type_traits>

#include "grouped_gemm/pipeline_sm90.cuh"

namespace moeref::cuda::sm90 {

constexpr int kGradientM = 128, kGradientN = 256;
// Three stages, which leave room to stage a whole tile, lost 2 to 5 %; storing a tile during the next one's
// first products lost 4 %, because their stages are given back later.
constexpr int kGradientStages = 4;
constexpr int kStoreRows = 16, kStoreColumns = 64;  // of a warp's TMA boxes
constexpr int kStoreBoxBytes = kStoreRows * kStoreColumns * 2;
constexpr int kStoreBytes = 2 * 4 * kStoreBoxBytes;  // of a warpgroup: two boxes a warp

struct WeightGradientShape {
  const int* offsets;
  int left_width, right_width, experts;
  int m_tiles, n_tiles;  // of an expert, m_tiles counting clusters
  bool m_fastest;
  __device__ int tiles() const { return experts * m_tiles * n_tiles; }
};

/// wgmma steps of 16 for the rows that are left.
__device__ __forceinline__ int steps_of(int rows) { return (rows + 15) / 16; }

struct GradientTile {
  int expert, m, n;  // first row and column
  int begin, rows;
  __device__ int k_blocks() const { return (rows + kBlockK - 1) / kBlockK; }
};

template <class Layout>
__device__ __forceinline__ GradientTile locate(const WeightGradientShape& s, int work) {
  const int per_expert = s.m_tiles * s.n_tiles, e = work / per_expert, rest = work - e * per_expert;
  const int m = s.m_fastest ? rest % s.m_tiles : rest / s.n_tiles;
  const int n = s.m_fastest ? rest / s.m_tiles : rest % s.n_tiles;
  const int begin = s.offsets[e];
  return {e, (m * Layout::cluster + rank_in_cluster<Layout>()) * kGradientM, n * kGradientN, begin,
          s.offsets[e + 1] - begin};
}

/// Calls work(tile) for every tile of this block or cluster.
template <class Layout, class Work>
__device__ __forceinline__ void for_tiles(const WeightGradientShape& s, const Work& work) {
  for (int i = blockIdx.x / Layout::cluster; i < s.tiles(); i += gridDim.x / Layout::cluster)
    work(locate<Layout>(s, i));
}

template <class Layout>
__device__ __forceinline__ void load_stages(const CUtensorMap& left, const CUtensorMap& right,
                                            const WeightGradientShape& s, std::uint32_t base) {
  constexpr int cluster = Layout::cluster, boxes = 4 / cluster;
  const int rank = rank_in_cluster<Layout>();
  PipelineState<Layout> pipe;
  pipe.phase = 1;  // the first pass over the stages finds them empty
  for_tiles<Layout>(s, [&](const GradientTile& tile) {
    const int k_blocks = tile.k_blocks();
    for (int kb = 0; kb < k_blocks; ++kb) {
      const bool whole = (kb + 1) * kBlockK <= tile.rows;
      const std::uint32_t arrived = whole ? Layout::full(base, pipe.stage) : Layout::landed(base, pipe.stage);
      const int row = tile.begin + kb * kBlockK;
      mbarrier_wait(Layout::empty(base, pipe.stage), pipe.phase);
      mbarrier_arrive_expect(arrived, Layout::stage_bytes);
#pragma unroll
      for (int i = 0; i < 2; ++i)
        tma_load(Layout::a(base, pipe.stage) + i * kBlock64Bytes, &left, arrived, tile.m + i * 64, row, 0);
#pragma unroll
      for (int i = rank * boxes; i < (rank + 1) * boxes; ++i)
        load_box<cluster>(Layout::b(base, pipe.stage) + i * kBlock64Bytes, right, arrived, tile.n + i * 64,
                          row, 0);
      pipe.advance();
    }
  });
}

template <class Layout>
__device__ __forceinline__ void clear_foreign_rows(const WeightGradientShape& s, std::uint32_t base) {
  const int lane = threadIdx.x % 32;
  PipelineState<Layout> pipe;
  std::uint32_t parities = 0;  // of `landed`, one bit a stage
  for_tiles<Layout>(s, [&](const GradientTile& tile) {
    const int whole = tile.rows / kBlockK, mine = tile.rows % kBlockK;
    for (int kb = 0; kb < whole; ++kb) pipe.advance();
    if (mine == 0) return;
    mbarrier_wait(Layout::landed(base, pipe.stage), parities >> pipe.stage & 1);
    parities ^= 1u << pipe.stage;
    const std::uint32_t stage = Layout::a(base, pipe.stage);
    for (int block = 0; block < Layout::stage_bytes / kBlock64Bytes; ++block)
      for (int at = mine * 128 + lane * 16; at < steps_of(mine) * 2048; at += 32 * 16)
        store_zero(stage + block * kBlock64Bytes + at);
    fence_shared_for_async();
    __syncwarp();
    if (lane == 0) mbarrier_arrive(Layout::full(base, pipe.stage));
    pipe.advance();
  });
}

/// The sum over the tile's rows, in steps of 16, for the first N columns.
template <class Layout, int N, class WhileRunning>
__device__ __forceinline__ void multiply(float (&acc)[kGradientN / 2], std::uint32_t base, int warpgroup,
                                         const GradientTile& tile, PipelineState<Layout>& pipe,
                                         const WhileRunning& while_running) {
  const auto issue = [&](int kb, std::uint64_t a, std::uint64_t b) {
    const auto steps = [&]<int Steps>(std::integral_constant<int, Steps>) {
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < Steps; ++k)
        wgmma<N, 1, 1>(acc, a + k * (2048 >> 4), b + k * (2048 >> 4), kb > 0 || k > 0);
      wgmma_commit();
    };
    // A loop would make the compiler wait for each product.
    switch (min(steps_of(tile.rows - kb * kBlockK), 4)) {
      case 4:
        steps(std::integral_constant<int, 4>{});
        break;
      case 3:
        steps(std::integral_constant<int, 3>{});
        break;
      case 2:
        steps(std::integral_constant<int, 2>{});
        break;
      default:
        steps(std::integral_constant<int, 1>{});
    }
  };
  each_stage<Layout, 1>(base, warpgroup, tile.k_blocks(), pipe, issue, while_running);
}

/// A warp's 16 rows from `m`, through two buffers of its own: no other warp waits for it.
__device__ __forceinline__ void store_gradient(const CUtensorMap& out, const float (&acc)[kGradientN / 2],
                                               const GradientTile& tile, int m, int columns,
                                               std::uint32_t staging, int& stores) {
  const int lane = threadIdx.x % 32, row = ((lane >> 3) & 1) * 8 + lane % 8;
#pragma unroll
  for (int c = 0; c < kGradientN / kStoreColumns; ++c) {
    if (c * kStoreColumns >= columns) break;
    const std::uint32_t buffer = staging + stores++ % 2 * kStoreBoxBytes;
    if (lane == 0) tma_store_wait_read<1>();
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = c * 32 + 4 * (2 * j + i / 2) + 2 * (i % 2);
        v[i] = pack_bf16(acc[at], acc[at + 1]);
      }
      stmatrix4(buffer + row * 128 + (((2 * j + (lane >> 4)) ^ (row & 7)) << 4), v);
    }
    fence_shared_for_async();
    __syncwarp();
    if (lane == 0) {
      tma_store(&out, buffer, tile.n + c * kStoreColumns, m, tile.expert);
      tma_store_commit();
    }
  }
}

template <class Layout>
__global__ void __launch_bounds__(kThreads, 1)
    weight_gradient(const __grid_constant__ CUtensorMap left, const __grid_constant__ CUtensorMap right,
                    const __grid_constant__ CUtensorMap out, const __grid_constant__ WeightGradientShape s) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = shared_address(shared);
  initialise_barriers<Layout>(base);
  if (threadIdx.x >= 256) {
    set_registers_down<kProducerRegisters>();
    if (threadIdx.x == 256) load_stages<Layout>(left, right, s, base);
    if (threadIdx.x / 32 == 9) clear_foreign_rows<Layout>(s, base);
  } else {
    set_registers_up<kConsumerRegisters>();
    const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32;
    const std::uint32_t staging = base + Layout::staging + warp * (Layout::staging_bytes / 4);
    PipelineState<Layout> pipe;
    float acc[kGradientN / 2];
    int stores = 0;
    const int first = blockIdx.x / Layout::cluster, step = gridDim.x / Layout::cluster;
    GradientTile next{};
    if (first < s.tiles()) next = locate<Layout>(s, first);
    for (int work = first; work < s.tiles(); work += step) {
      const GradientTile tile = next;
      const auto find_next = [&] {
        if (work + step < s.tiles()) next = locate<Layout>(s, work + step);
      };
      if (tile.m + warpgroup * 64 >= s.left_width) {
        find_next();
        skip(base, tile.k_blocks(), pipe);
        continue;
      }
      const int columns = s.right_width - tile.n;
#pragma unroll
      for (float& sum : acc) sum = 0;
      fence_accumulator(acc);
      if (columns > 128)
        multiply<Layout, 256>(acc, base, warpgroup, tile, pipe, find_next);
      else
        multiply<Layout, 128>(acc, base, warpgroup, tile, pipe, find_next);
      fence_accumulator(acc);
      store_gradient(out, acc, tile, tile.m + warp * kStoreRows, columns, staging, stores);
    }
    if (threadIdx.x % 32 == 0) tma_store_wait_all();
  }
  leave<Layout>();
}

}  // namespace moeref::cuda::sm90
