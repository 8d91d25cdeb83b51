// Grouped product over a fixed K: for each expert e and each of its rows r, C[r][m] = sum_k tokens[r][k]
// W_e[k][m], with the epilogue on the accumulator. All four token products of the layer: X W_gate_up, A'
// W_down, dY W_down^T, dH W_gate_up^T.
//
// Tile 256 (M, weight columns) x up to 160 (N, tokens) x 64, four stages of 52 KiB; persistent, one block per
// multiprocessor, its tiles by tickets (tickets.cuh), drawn by the producer while it fills a tile's last
// stages; a row tile of up to 160 rows is one block's, or one of up to 320 half each of the two
// blocks of a cluster, with the same weights. Tiles run expert by expert, token tiles fastest, so that the
// blocks in flight share weights and tokens in L2; each column of weights begins with another token tile, or
// a block would meet a remainder at every turn or never (512 rows as 320 + 192: a fifth of the time). Both
// operands come by TMA. Floor: 2 R K M flops at the dense rate; each weight read once. Measured figures:
// tools/bench/results.
#pragma once

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_store.cuh"
#include "cuda_impl/permutation/tile_split.hpp"

namespace moeref::cuda::sm90 {

constexpr int kTokenBox = 32;  // rows of a TMA box of tokens

struct TokenProductShape {
  RowTiles tiles;
  int k_extent, experts, tile_rows;
  int m_tiles;
  Tickets tickets;
};

// The rows of the cluster's block `rank`; none where the first block takes all.
template <int Cluster>
__device__ __forceinline__ TileOutput locate(const TokenProductShape& s, int work, int rank) {
  const int e = s.tiles.tile_expert[work / s.m_tiles];
  const int first = s.tiles.expert_tile_begin[e], begin = s.tiles.offsets[e * s.tiles.step],
            rows = s.tiles.offsets[e * s.tiles.step + 1] - begin;
  const int size = tile_size(rows, s.tile_rows), count = (rows + size - 1) / size;
  const int local = work - first * s.m_tiles, m = local / count, at = (local - m * count + m) % count * size;
  if constexpr (Cluster == 1) return {e, begin + at, min(size, rows - at), m};
  const int both = min(size, rows - at), half = half_tile(both);
  return rank == 0 ? TileOutput{e, begin + at, min(half, both), m}
                   : TileOutput{e, begin + at + half, max(both - half, 0), m};
}

template <class Layout, bool WeightsMnMajor, class Epilogue>
__device__ __forceinline__ void produce_tokens(const CUtensorMap& weights, const CUtensorMap& tokens,
                                               const TokenProductShape& s, int m_half, std::uint32_t base,
                                               int total) {
  constexpr int cluster = Layout::cluster;
  const int rank = rank_in_cluster<Layout>();
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK;
  PipelineState<Layout> pipe;
  pipe.phase = 1;  // the first pass over the stages finds them empty
  const int draw_at = max(0, k_blocks - Layout::stages);
  TicketKeeper<typename Layout::Ring> tickets(s.tickets, total, rank, base + Layout::tickets);
  for (int work = tickets.next(); work < total; work = tickets.next()) {
    const TileOutput tile = locate<cluster>(s, work, rank);
    const int boxes = (tile.rows + kTokenBox - 1) / kTokenBox;
    for (int kb = 0; kb < k_blocks; ++kb) {
      const std::uint32_t full = Layout::full(base, pipe.stage), a = Layout::a(base, pipe.stage),
                          b = Layout::b(base, pipe.stage);
      if (kb == draw_at) tickets.draw();
      mbarrier_wait(Layout::empty(base, pipe.stage), pipe.phase);
      mbarrier_arrive_expect(full, Layout::a_bytes + boxes * kTokenBox * kBlockK * 2);
      if constexpr (WeightsMnMajor) {
#pragma unroll
        for (int i = 0; i < 4 / cluster; ++i) {
          const int box = 4 / cluster * rank + i,
                    column = Epilogue::paired_columns ? box % 2 * m_half + tile.m_tile * 128 + box / 2 * 64
                                                      : tile.m_tile * kBlockM + box * 64;
          load_box<cluster>(a + box * kBlock64Bytes, weights, full, column, kb * kBlockK, tile.expert);
        }
      } else {
#pragma unroll
        for (int i = 0; i < 2 / cluster; ++i) {
          const int half = cluster == 2 ? rank : i;
          load_box<cluster>(a + half * 2 * kBlock64Bytes, weights, full, kb * kBlockK,
                            tile.m_tile * kBlockM + half * 128, tile.expert);
        }
      }
      for (int box = 0; box < boxes; ++box)
        tma_load(b + box * kTokenBox * kBlockK * 2, &tokens, full, kb * kBlockK,
                 int(tile.row) + box * kTokenBox, 0);
      pipe.advance();
    }
  }
}

template <class Layout, bool WeightsMnMajor, class Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    token_product(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap tokens,
                  const __grid_constant__ TokenProductShape s,
                  const __grid_constant__ typename Epilogue::Arguments epilogue) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = kept_shared_address(shared);
  initialise_barriers<Layout>(base);
  const int total = s.tiles.expert_tile_begin[s.experts] * s.m_tiles;
  const int m_extent = Epilogue::m_extent(epilogue);
  if (threadIdx.x >= 256) {
    set_registers_down<kProducerRegisters>();
    if (threadIdx.x == 256)
      produce_tokens<Layout, WeightsMnMajor, Epilogue>(weights, tokens, s, m_extent, base, total);
  } else {
    set_registers_up<kConsumerRegisters>();
    const int warpgroup = uniform(threadIdx.x / 128), k_blocks = (s.k_extent + kBlockK - 1) / kBlockK;
    constexpr int columns = Epilogue::paired_columns ? 64 : 128;
    PipelineState<Layout> pipe;
    Accumulator<Layout::max_n> acc;
    const int rank = rank_in_cluster<Layout>();
    TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
    TileOutput next{};
    const auto find_next = [&] {
      const int work = tickets.next();
      if (work < total)
        next = locate<Layout::cluster>(s, work, rank);
      else
        next.m_tile = -1;  // no more
    };
    find_next();
    while (next.m_tile >= 0) {
      const TileOutput tile = next;
      typename Epilogue::Prepared prepared;
      if (tile.rows == 0 || tile.m_tile * 2 * columns + warpgroup * columns >= m_extent) {
        skip(base, k_blocks, pipe);
        find_next();  // not before: the producer hands out the ticket when it has filled the stages
        continue;
      }
      accumulate<Layout, WeightsMnMajor, false>(acc, base, warpgroup, (tile.rows + 15) / 16 * 16, k_blocks,
                                                pipe, [&] {
                                                  prepared = Epilogue::prepare(epilogue, tile, warpgroup);
                                                  find_next();
                                                });
      Epilogue::run(epilogue, prepared, acc, tile,
                    shared + Layout::staging + warpgroup * Layout::staging_bytes, warpgroup);
    }
  }
  leave<Layout>();
}

}  // namespace moeref::cuda::sm90
