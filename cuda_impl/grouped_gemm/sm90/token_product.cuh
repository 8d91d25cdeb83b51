// Grouped product over a fixed K: for each expert e and each of its rows r, C[r][m] = sum_k tokens[r][k]
// W_e[k][m], with the epilogue on the accumulator. All four token products of the layer: X W_gate_up, A'
// W_down, dY W_down^T, dH W_gate_up^T.
//
// The columns of weights (M) come in strips of 128, tokens (N) in tiles of up to 160 rows, K in steps of 64.
// Persistent, one block per multiprocessor, its units of work by tickets (tickets.cuh), drawn by the producer
// while it fills a unit's last stages. The two consumer warpgroups
//   share a tile, a strip each      four stages of 52 KiB; in a cluster a tile of up to 320 rows, half each
//   of
//                                   the two blocks, with the same weights
//   take turns, a tile each         five stages of 36 KiB; the two blocks of a cluster take neighbouring
//   strips
//                                   of the same tokens. One multiplies while the other is in its epilogue
// Units run expert by expert, token tiles fastest, so that the
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
  int units_per_tile;  // units of work that the columns of weights make for each row tile
  Tickets tickets;
};

template <class Epilogue>
__host__ __device__ constexpr int strips_of(int m_extent) {
  const int columns = Epilogue::paired_columns ? 64 : kStrip;
  return (m_extent + columns - 1) / columns;
}

/// Strips of a unit of work: two of a block, or one of each block of a cluster, or one.
template <class Layout>
constexpr int kUnitStrips = Layout::by_turns ? Layout::cluster : Layout::strips;

// A unit's rows and first strip for the cluster's block `rank`; no rows where the first block takes all.
template <class Layout>
__device__ __forceinline__ TileOutput locate(const TokenProductShape& s, int work, int rank) {
  const int e = s.tiles.tile_expert[work / s.units_per_tile];
  const int first = s.tiles.expert_tile_begin[e], begin = s.tiles.offsets[e * s.tiles.step],
            rows = s.tiles.offsets[e * s.tiles.step + 1] - begin;
  const int size = tile_size(rows, s.tile_rows), count = (rows + size - 1) / size;
  const int local = work - first * s.units_per_tile, unit = local / count,
            at = (local - unit * count + unit) % count * size, both = min(size, rows - at);
  const int strip = unit * kUnitStrips<Layout>;
  if constexpr (Layout::by_turns) return {e, begin + at, both, strip + rank};
  if constexpr (Layout::cluster == 1) return {e, begin + at, both, strip};
  const int half = half_tile(both);
  return rank == 0 ? TileOutput{e, begin + at, min(half, both), strip}
                   : TileOutput{e, begin + at + half, max(both - half, 0), strip};
}

/// Strip `i` of a unit's weights into operand A, of both blocks of a cluster where `Shared` is 2.
template <int Shared, class Epilogue, bool WeightsMnMajor>
__device__ __forceinline__ void load_strip(const CUtensorMap& weights, std::uint32_t a, std::uint32_t full,
                                           const TileOutput& tile, int i, int m_half, int k) {
  const std::uint32_t to = a + i * 2 * kBlock64Bytes;
  const int strip = tile.strip + i;
  if constexpr (!WeightsMnMajor) {
    load_box<Shared>(to, weights, full, k, strip * kStrip, tile.expert);
  } else if constexpr (Epilogue::paired_columns) {
    load_box<Shared>(to, weights, full, strip * 64, k, tile.expert);
    load_box<Shared>(to + kBlock64Bytes, weights, full, m_half + strip * 64, k, tile.expert);
  } else {
    load_box<Shared>(to, weights, full, strip * kStrip, k, tile.expert);
    load_box<Shared>(to + kBlock64Bytes, weights, full, strip * kStrip + 64, k, tile.expert);
  }
}

template <class Layout, bool WeightsMnMajor, class Epilogue>
__device__ __forceinline__ void produce_tokens(const CUtensorMap& weights, const CUtensorMap& tokens,
                                               const TokenProductShape& s, int m_half, std::uint32_t base,
                                               int total) {
  // Blocks of a cluster share the weights, or, where each has its own strips, the tokens.
  constexpr int cluster = Layout::cluster, share_weights = Layout::by_turns ? 1 : cluster,
                share_tokens = Layout::by_turns ? cluster : 1;
  const int rank = rank_in_cluster<Layout>();
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK;
  PipelineState<Layout> pipe;
  pipe.phase = 1;  // the first pass over the stages finds them empty
  const int draw_at = max(0, k_blocks - Layout::stages);
  TicketKeeper<typename Layout::Ring> tickets(s.tickets, total, rank, base + Layout::tickets);
  for (int work = tickets.next(); work < total; work = tickets.next()) {
    const TileOutput tile = locate<Layout>(s, work, rank);
    const int boxes = (tile.rows + kTokenBox - 1) / kTokenBox;
    for (int kb = 0; kb < k_blocks; ++kb) {
      const std::uint32_t full = Layout::full(base, pipe.stage), a = Layout::a(base, pipe.stage),
                          b = Layout::b(base, pipe.stage);
      if (kb == draw_at) tickets.draw();
      mbarrier_wait(Layout::empty(base, pipe.stage), pipe.phase);
      mbarrier_arrive_expect(full, Layout::a_bytes + boxes * kTokenBox * kBlockK * 2);
#pragma unroll
      for (int i = 0; i < Layout::strips / share_weights; ++i)
        load_strip<share_weights, Epilogue, WeightsMnMajor>(
            weights, a, full, tile, share_weights == 2 ? rank : i, m_half, kb * kBlockK);
      for (int box = share_tokens == 2 ? rank : 0; box < boxes; box += share_tokens)
        load_box<share_tokens>(b + box * kTokenBox * kBlockK * 2, tokens, full, kb * kBlockK,
                               int(tile.row) + box * kTokenBox, 0);
      pipe.advance();
    }
  }
}

/// A warpgroup's part in every unit of work: both of a block multiply each, a strip each, and read the next
/// ticket before the epilogue.
template <class Layout, bool WeightsMnMajor, class Epilogue>
__device__ __forceinline__ void consume_together(const TokenProductShape& s,
                                                 const typename Epilogue::Arguments& epilogue, char* shared,
                                                 std::uint32_t base, int total, int warpgroup) {
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK, rank = rank_in_cluster<Layout>(),
            strips = strips_of<Epilogue>(Epilogue::m_extent(epilogue));
  PipelineState<Layout> pipe;
  Accumulator<Layout::max_n> acc;
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  TileOutput next{};
  const auto find_next = [&] {
    const int work = tickets.next();
    next.strip = -1;  // no more
    if (work >= total) return;
    next = locate<Layout>(s, work, rank);
    next.strip += warpgroup;
  };
  find_next();
  while (next.strip >= 0) {
    const TileOutput tile = next;
    typename Epilogue::Prepared prepared;
    if (tile.rows == 0 || tile.strip >= strips) {
      skip(base, k_blocks, pipe);
      find_next();  // not before: the producer hands out the ticket when it has filled the stages
      continue;
    }
    accumulate<Layout, WeightsMnMajor, false>(acc, base, warpgroup, (tile.rows + 15) / 16 * 16, k_blocks,
                                              pipe, [&] {
                                                prepared = Epilogue::prepare(epilogue, tile);
                                                find_next();
                                              });
    Epilogue::run(epilogue, prepared, acc, tile,
                  shared + Layout::staging + warpgroup * Epilogue::staging_bytes, warpgroup);
  }
}

/// The warpgroups take every other unit, so that one multiplies while the other is in its epilogue. They wait
/// for each other by the stages, which come in the order of the units, and where their epilogues store
/// through one buffer, for their turn at it.
template <class Layout, bool WeightsMnMajor, class Epilogue>
__device__ __forceinline__ void consume_in_turn(const TokenProductShape& s,
                                                const typename Epilogue::Arguments& epilogue, char* shared,
                                                std::uint32_t base, int total, int warpgroup) {
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK, rank = rank_in_cluster<Layout>(),
            strips = strips_of<Epilogue>(Epilogue::m_extent(epilogue));
  PipelineState<Layout> pipe;
  Accumulator<Layout::max_n> acc;
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  std::uint32_t my_turn = warpgroup == 0;  // of the staging; the first goes first
  const auto await_turn = [&] {
    if (Epilogue::shares_staging) mbarrier_wait(Layout::turn(base, warpgroup), my_turn), my_turn ^= 1;
  };
  const auto pass_turn = [&] {
    if (Epilogue::shares_staging && threadIdx.x % 32 == 0) mbarrier_arrive(Layout::turn(base, 1 - warpgroup));
  };
  int turn = 0;
  for (int work = tickets.next(); work < total; work = tickets.next(), turn ^= 1) {
    if (turn != warpgroup) {
      pipe.advance(k_blocks);
      continue;
    }
    const TileOutput tile = locate<Layout>(s, work, rank);
    if (tile.strip >= strips) {
      skip(base, k_blocks, pipe);
      await_turn();
      pass_turn();
      continue;
    }
    typename Epilogue::Prepared prepared;
    accumulate<Layout, WeightsMnMajor, false>(acc, base, 0, (tile.rows + 15) / 16 * 16, k_blocks, pipe,
                                              [&] { prepared = Epilogue::prepare(epilogue, tile); });
    await_turn();
    Epilogue::run(
        epilogue, prepared, acc, tile,
        shared + Layout::staging + (Epilogue::shares_staging ? 0 : warpgroup) * Epilogue::staging_bytes,
        warpgroup);
    pass_turn();
  }
  Epilogue::finish();
}

template <class Layout, bool WeightsMnMajor, class Epilogue>
__global__ void __launch_bounds__(kThreads, 1)
    token_product(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap tokens,
                  const __grid_constant__ TokenProductShape s,
                  const __grid_constant__ typename Epilogue::Arguments epilogue) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = kept_shared_address(shared);
  initialise_barriers<Layout>(base);
  wait_for_earlier_kernels();
  const int total = s.tiles.expert_tile_begin[s.experts] * s.units_per_tile;
  if (threadIdx.x >= 256) {
    set_registers_down<kProducerRegisters>();
    if (threadIdx.x == 256)
      produce_tokens<Layout, WeightsMnMajor, Epilogue>(weights, tokens, s, Epilogue::m_extent(epilogue), base,
                                                       total);
  } else {
    set_registers_up<kConsumerRegisters>();
    const int warpgroup = uniform(threadIdx.x / 128);
    if constexpr (Layout::by_turns)
      consume_in_turn<Layout, WeightsMnMajor, Epilogue>(s, epilogue, shared, base, total, warpgroup);
    else
      consume_together<Layout, WeightsMnMajor, Epilogue>(s, epilogue, shared, base, total, warpgroup);
  }
  leave<Layout>();
}

}  // namespace moeref::cuda::sm90
