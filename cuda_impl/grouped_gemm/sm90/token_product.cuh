// Grouped product over a fixed K: for each expert e and each of its rows r, C[r][m] = sum_k tokens[r][k]
// W_e[k][m], with the epilogue on the accumulator. All four token products of the layer: X W_gate_up, A'
// W_down, dY W_down^T, dH W_gate_up^T.
//
// The columns of weights (M) come in strips of 128, tokens (N) in tiles of up to 160 rows, K in steps of 64.
// Persistent, one block per multiprocessor, its units of work by tickets (tickets.cuh), drawn by the producer
// while it fills a unit's last stages. The two consumer warpgroups
// * share a tile, a strip each: four stages of 52 KiB; in a cluster a tile of up to 320 rows, of which each
//   of the two blocks has half, with the same weights; or
// * take turns, a tile each: five stages of 36 KiB; the two blocks of a cluster take neighbouring strips of
//   the same tokens. One multiplies while the other is in its epilogue.
//
// Both operands come by TMA. Where the tokens still have to come to their rows, idle warps bring them there
// (row_copy.cuh). Where the weights are codes, one warpgroup multiplies, and in place of the other and of the
// producer one warp has codes loaded (code_feeder.cuh) and eleven turn them into numbers
// (code_converter.cuh). Where the tokens are codes, too, e4m3 both, the tensor cores multiply these
// (e4m3_operands.cuh).
//
// Units run expert by expert, token tiles fastest, so that the blocks in flight share weights and tokens in
// L2; each column of weights begins with another token tile, or a block would meet a remainder at every turn
// or never (512 rows as 320 + 192: a fifth of the time). Floor: 2 R K M flops at the dense rate; each weight
// read once. Measured figures: tools/bench/results.
#pragma once

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"
#include "cuda_impl/grouped_gemm/sm90/code_converter.cuh"
#include "cuda_impl/grouped_gemm/sm90/e4m3_operands.cuh"
#include "cuda_impl/grouped_gemm/sm90/epilogue_store.cuh"
#include "cuda_impl/grouped_gemm/sm90/row_copy.cuh"
#include "cuda_impl/quantization/quantize_rows.hpp"
#include "cuda_impl/quantization/with_code_format.hpp"

namespace moeref::cuda::sm90 {

constexpr int kTokenBox = 32;  // rows of a TMA box of tokens

struct TokenProductShape {
  RowTiles tiles;
  int k_extent, experts, tile_rows;
  int units_per_tile;  // units of work that the columns of weights make for each row tile
  Tickets tickets;
  RowCopy copy;  // without tokens where these lie by row already
};

template <class Epilogue>
__host__ __device__ constexpr int strips_of(int m_extent) {
  const int columns = Epilogue::paired_columns ? 64 : kStrip;
  return (m_extent + columns - 1) / columns;
}

/// Strips of a unit of work: two of a block, or one of each block of a cluster, or one.
template <class Layout>
constexpr int kUnitStrips = Layout::by_turns ? Layout::cluster : Layout::strips;

/// What the warpgroups of an epilogue stage: one's, where they share it, or both's.
template <class Epilogue>
constexpr int kStagingBytes = (Epilogue::shares_staging ? 1 : 2) * Epilogue::staging_bytes;

/// Operand A by TMA: weights [E, K, M] where MnMajor, else [E, M, K].
template <bool MnMajor>
struct WeightsByTma {
  using Source = CUtensorMap;
  using Tokens = CUtensorMap;
  template <class Epilogue, int Strips, int Cluster>
  using Layout = SharedLayout<Strips, kBlockRows, Strips == 2 ? 4 : 5, kStagingBytes<Epilogue>, Cluster>;
  static constexpr bool mn_major = MnMajor, converted = false;
  static constexpr int block_k = kBlockK;
  static constexpr int producer_registers = kProducerRegisters, consumer_registers = kConsumerRegisters;
};
/// Or from codes [E, M, K], which become numbers on their way.
struct CodedWeights {
  using Source = CodeSource;
  using Tokens = CUtensorMap;
  template <class Epilogue, int Strips, int Cluster>
  using Layout = SharedLayout<Strips, kBlockRows, 4, Epilogue::staging_bytes, Cluster, kConverterWarps>;
  static constexpr bool mn_major = false, converted = true;
  static constexpr int block_k = kBlockK;
  // A block has what it is launched with, 128 for each of 512 threads: whoever wants more waits for ever.
  static constexpr int producer_registers = 96, consumer_registers = 224;
};
/// Or both operands are multiplied as codes.
struct E4m3Operands {
  using Source = CodedMatrices;
  using Tokens = CodedTokens;
  template <class Epilogue, int Strips, int Cluster>
  using Layout = CodedLayout<kStagingBytes<Epilogue>, Cluster>;
  static constexpr bool mn_major = false, converted = false;
  static constexpr int block_k = kCodeBlockK;
  static constexpr int producer_registers = kProducerRegisters, consumer_registers = kConsumerRegisters;
};

inline __device__ const CUtensorMap& matrix_of(const CUtensorMap& map) { return map; }
inline __device__ const CUtensorMap& matrix_of(const CodedMatrices& w) { return w.codes; }
inline __device__ const CUtensorMap& matrix_of(const CodedTokens& t) { return t.codes; }

template <class Weights>
__host__ __device__ constexpr int blocks_of(int k_extent) {
  return (k_extent + Weights::block_k - 1) / Weights::block_k;
}

/// A unit's row tile, of all blocks of the cluster, and how many rows it has, and the first row of its
/// expert; its rows and first strip for the cluster's block `rank`, no rows where the first block takes all.
struct Unit {
  int tile, tile_rows, expert_begin;
  TileOutput output;
};
template <class Layout>
__device__ __forceinline__ Unit locate(const TokenProductShape& s, int work, int rank) {
  const ExpertTiles of = tiles_around(s.tiles, s.tile_rows, work / s.units_per_tile);
  const int local = work - of.first_tile * s.units_per_tile, column = local / of.count,
            tile = (local - column * of.count + column) % of.count, begin = of.begin + tile * of.size,
            rows = min(of.size, of.rows - tile * of.size), strip = column * kUnitStrips<Layout>;
  Unit unit{of.first_tile + tile, rows, of.begin, {of.expert, begin, rows, strip}};
  if constexpr (Layout::by_turns) {
    unit.output.strip += rank;
  } else if constexpr (Layout::cluster == 2) {
    const int half = half_tile(rows);
    unit.output.rows = rank == 0 ? min(half, rows) : max(rows - half, 0);
    if (rank == 1) unit.output.row += half;
  }
  return unit;
}

constexpr int kTokenBoxBytes = kTokenBox * kBlockK * 2;

/// A box of tokens into operand B, of both blocks of a cluster where `Shared` is 2.
template <int Shared, class Layout>
__device__ __forceinline__ void load_tokens(const CUtensorMap& tokens, std::uint32_t base, int stage, int box,
                                            int kb, int row, int = 0) {
  load_box<Shared>(Layout::b(base, stage) + box * kTokenBoxBytes, tokens, Layout::full(base, stage),
                   kb * kBlockK, row + box * kTokenBox, 0);
}
template <int Shared, class Layout>
__device__ __forceinline__ void load_tokens(const CodedTokens& tokens, std::uint32_t base, int stage, int box,
                                            int kb, int row, int scale) {
  const std::uint32_t full = Layout::full(base, stage);
  load_box<Shared>(Layout::b(base, stage) + box * kTokenBoxBytes, tokens.codes, full, kb * kCodeBlockK,
                   row + box * kTokenBox, 0);
  load_box<Shared>(Layout::token_scales(base, stage) + box * kTokenBox * 4, tokens.scales, full,
                   scale + box * kTokenBox, kb, 0);
}
template <class Tokens>
constexpr int kLoadedBoxBytes = kTokenBoxBytes + (std::is_same_v<Tokens, CodedTokens> ? kTokenBox * 4 : 0);

/// Strip `i` of a unit's weights into operand A, of both blocks of a cluster where `Shared` is 2.
template <int Shared, class Epilogue, bool MnMajor>
__device__ __forceinline__ void load_strip(const CUtensorMap& weights, std::uint32_t a, std::uint32_t full,
                                           const TileOutput& tile, int i, int m_half, int k) {
  const std::uint32_t to = a + i * 2 * kBlock64Bytes;
  const int strip = tile.strip + i;
  if constexpr (!MnMajor && Epilogue::paired_columns) {
    load_box<Shared>(to, weights, full, k, strip * 64, tile.expert);
    load_box<Shared>(to + kBlock64Bytes, weights, full, k, m_half + strip * 64, tile.expert);
  } else if constexpr (!MnMajor) {
    load_box<Shared>(to, weights, full, k, strip * kStrip, tile.expert);
  } else if constexpr (Epilogue::paired_columns) {
    load_box<Shared>(to, weights, full, strip * 64, k, tile.expert);
    load_box<Shared>(to + kBlock64Bytes, weights, full, m_half + strip * 64, k, tile.expert);
  } else {
    load_box<Shared>(to, weights, full, strip * kStrip, k, tile.expert);
    load_box<Shared>(to + kBlock64Bytes, weights, full, strip * kStrip + 64, k, tile.expert);
  }
}

template <class Layout, class Weights, class Epilogue>
__device__ __forceinline__ void produce_tokens(const typename Weights::Source& weights,
                                               const typename Weights::Tokens& tokens,
                                               const TokenProductShape& s, int m_half, std::uint32_t base,
                                               int total) {
  // Blocks of a cluster share the weights, or, where each has its own strips, the tokens.
  constexpr int cluster = Layout::cluster, share_weights = Layout::by_turns ? 1 : cluster,
                share_tokens = Layout::by_turns ? cluster : 1;
  const int rank = rank_in_cluster<Layout>();
  const int k_blocks = blocks_of<Weights>(s.k_extent);
  PipelineState<Layout> pipe;
  pipe.phase = 1;  // the first pass over the stages finds them empty
  const int draw_at = max(0, k_blocks - Layout::stages);
  TicketKeeper<typename Layout::Ring> tickets(s.tickets, total, rank, base + Layout::tickets);
  for (int work = tickets.next(); work < total; work = tickets.next()) {
    const Unit unit = locate<Layout>(s, work, rank);
    const TileOutput& tile = unit.output;
    if (Epilogue::may_gather && !Weights::converted && s.copy.tokens)
      await_rows(s.copy.arrived + unit.tile, unit.tile_rows);
    const int boxes = (tile.rows + kTokenBox - 1) / kTokenBox;
    int scale = 0;
    if constexpr (std::is_same_v<Weights, E4m3Operands>)
      scale = int(first_scale(unit.expert_begin, tile.expert * s.tiles.step + tokens.chunk) + tile.row) -
              unit.expert_begin;
    for (int kb = 0; kb < k_blocks; ++kb) {
      const std::uint32_t full = Layout::full(base, pipe.stage), a = Layout::a(base, pipe.stage);
      if (kb == draw_at) tickets.draw();
      mbarrier_wait(Layout::empty(base, pipe.stage), pipe.phase);
      mbarrier_arrive_expect(full, Layout::a_bytes + boxes * kLoadedBoxBytes<typename Weights::Tokens>);
#pragma unroll
      for (int i = 0; i < Layout::strips / share_weights; ++i)
        load_strip<share_weights, Epilogue, Weights::mn_major>(
            matrix_of(weights), a, full, tile, share_weights == 2 ? rank : i, m_half, kb * Weights::block_k);
      for (int box = share_tokens == 2 ? rank : 0; box < boxes; box += share_tokens)
        load_tokens<share_tokens, Layout>(tokens, base, pipe.stage, box, kb, int(tile.row), scale);
      pipe.advance();
    }
  }
}

/// Where the weights are codes: one warp draws the tickets and has codes loaded,
template <class Layout, class Epilogue>
__device__ __forceinline__ void produce_codes(const CodeSource& weights, const TokenProductShape& s,
                                              int m_half, std::uint32_t base, int total) {
  const int rank = rank_in_cluster<Layout>(), half = Epilogue::paired_columns ? m_half : 0;
  const bool leads = threadIdx.x % 32 == 0;
  TicketKeeper<typename Layout::Ring> tickets(s.tickets, total, rank, base + Layout::tickets, leads);
  const auto next = [&] { return uniform(leads ? tickets.next() : 0); };
  with_code_format(weights.format, [&]<WeightFormat kFormat>() {
    CodeFeeder<Layout, kFormat> feeder(weights, base);
    for (int work = next(); work < total; work = next()) {
      const TileOutput tile = locate<Layout>(s, work, rank).output;
      feeder.feed_strip(tile.expert, StripRows(tile.strip, half), [&] {
        if (leads) tickets.draw();
      });
    }
  });
}

/// and the others turn these into operand A, and have the tokens loaded in turn, a stage each.
template <class Layout>
__device__ __forceinline__ void convert_codes(const CodeSource& weights, const CUtensorMap& tokens,
                                              const TokenProductShape& s, std::uint32_t base, int total) {
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK, rank = rank_in_cluster<Layout>();
  const bool leads = threadIdx.x % 32 == 0;
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  with_code_format(weights.format, [&]<WeightFormat kFormat>() {
    CodeConverter<Layout, kFormat> converter(weights, base,
                                             uniform((threadIdx.x - Layout::consumer_threads) / 32));
    for (int work = tickets.next(); work < total; work = tickets.next()) {
      const TileOutput tile = locate<Layout>(s, work, rank).output;
      const int boxes = (tile.rows + kTokenBox - 1) / kTokenBox;
      converter.convert_strip(tile.expert, k_blocks, [&](int kb, int stage) {
        if (!leads) return;
        mbarrier_arrive_expect(Layout::full(base, stage), boxes * kTokenBoxBytes);
        for (int box = rank; box < boxes; box += Layout::cluster)
          load_tokens<Layout::cluster, Layout>(tokens, base, stage, box, kb, int(tile.row));
      });
    }
  });
}

/// A tile's products of one strip into acc, as accumulate() does it.
template <class Layout, class Weights, class Epilogue, class WhileRunning>
__device__ __forceinline__ void multiply(const typename Weights::Source& weights, const TokenProductShape& s,
                                         int m_half, const TileOutput& tile, Accumulator<Layout::max_n>& acc,
                                         std::uint32_t base, int strip, PipelineState<Layout>& pipe,
                                         const WhileRunning& while_running) {
  const int n = (tile.rows + 15) / 16 * 16, blocks = blocks_of<Weights>(s.k_extent);
  if constexpr (std::is_same_v<Weights, E4m3Operands>)
    accumulate_coded<Layout>(acc, base, strip, n,
                             StripScales(weights, tile, Epilogue::paired_columns ? m_half : 0, blocks),
                             blocks, pipe, while_running);
  else
    accumulate<Layout, Weights::mn_major, false>(acc, base, strip, n, blocks, pipe, while_running);
}

/// A warpgroup's part in every unit of work: both of a block multiply each, a strip each, and read the next
/// ticket before the epilogue.
template <class Layout, class Weights, class Epilogue>
__device__ __forceinline__ void consume_together(const typename Weights::Source& weights,
                                                 const TokenProductShape& s,
                                                 const typename Epilogue::Arguments& epilogue, char* shared,
                                                 std::uint32_t base, int total, int warpgroup) {
  const int m_extent = Epilogue::m_extent(epilogue), rank = rank_in_cluster<Layout>(),
            strips = strips_of<Epilogue>(m_extent);
  PipelineState<Layout> pipe;
  Accumulator<Layout::max_n> acc;
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  TileOutput next{};
  const auto find_next = [&] {
    const int work = tickets.next();
    next.strip = -1;  // no more
    if (work >= total) return;
    next = locate<Layout>(s, work, rank).output;
    next.strip += warpgroup;
  };
  find_next();
  while (next.strip >= 0) {
    const TileOutput tile = next;
    typename Epilogue::Prepared prepared;
    if (tile.rows == 0 || tile.strip >= strips) {
      skip(base, blocks_of<Weights>(s.k_extent), pipe);
      find_next();  // not before: the producer hands out the ticket when it has filled the stages
      continue;
    }
    multiply<Layout, Weights, Epilogue>(weights, s, m_extent, tile, acc, base, warpgroup, pipe, [&] {
      prepared = Epilogue::prepare(epilogue, tile);
      find_next();
    });
    Epilogue::run(epilogue, prepared, acc, tile,
                  shared + Layout::staging + warpgroup * Epilogue::staging_bytes, warpgroup);
  }
}

/// The warpgroups take every other unit, so that one multiplies while the other is in its epilogue. A
/// warpgroup waits for a stage only when the other has got its unit's last one: the stage's barrier would
/// else be a phase behind, and its parity would pass for that of the phase waited for.
template <class Layout, class Weights, class Epilogue>
__device__ __forceinline__ void consume_in_turn(const TokenProductShape& s,
                                                const typename Epilogue::Arguments& epilogue, char* shared,
                                                std::uint32_t base, int total, int warpgroup) {
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK, rank = rank_in_cluster<Layout>(),
            strips = strips_of<Epilogue>(Epilogue::m_extent(epilogue));
  PipelineState<Layout> pipe;
  Accumulator<Layout::max_n> acc;
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  std::uint32_t phase = warpgroup == 0;  // of my turns; the first goes first
  const auto await_turn = [&](std::uint32_t barrier) { mbarrier_wait(barrier, phase); };
  const auto pass_turn = [&](std::uint32_t barrier) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(barrier);
  };
  int turn = 0;
  for (int work = tickets.next(); work < total; work = tickets.next(), turn ^= 1) {
    if (turn != warpgroup) {
      pipe.advance(k_blocks);
      continue;
    }
    const TileOutput tile = locate<Layout>(s, work, rank).output;
    await_turn(Layout::turn_to_multiply(base, warpgroup));
    if (tile.strip >= strips) {
      skip(base, k_blocks, pipe);
      pass_turn(Layout::turn_to_multiply(base, 1 - warpgroup));
      if (Epilogue::shares_staging) await_turn(Layout::turn_to_store(base, warpgroup));
    } else {
      typename Epilogue::Prepared prepared;
      accumulate<Layout, Weights::mn_major, false>(acc, base, 0, (tile.rows + 15) / 16 * 16, k_blocks, pipe,
                                                   [&] {
                                                     pass_turn(Layout::turn_to_multiply(base, 1 - warpgroup));
                                                     prepared = Epilogue::prepare(epilogue, tile);
                                                   });
      if (Epilogue::shares_staging) await_turn(Layout::turn_to_store(base, warpgroup));
      Epilogue::run(
          epilogue, prepared, acc, tile,
          shared + Layout::staging + (Epilogue::shares_staging ? 0 : warpgroup) * Epilogue::staging_bytes,
          warpgroup);
    }
    if (Epilogue::shares_staging) pass_turn(Layout::turn_to_store(base, 1 - warpgroup));
    phase ^= 1;
  }
  Epilogue::finish();
}

/// One warpgroup does all, while converters go on as far as there are stages.
template <class Layout, class Weights, class Epilogue>
__device__ __forceinline__ void consume_alone(const TokenProductShape& s,
                                              const typename Epilogue::Arguments& epilogue, char* shared,
                                              std::uint32_t base, int total) {
  const int k_blocks = (s.k_extent + kBlockK - 1) / kBlockK, rank = rank_in_cluster<Layout>(),
            strips = strips_of<Epilogue>(Epilogue::m_extent(epilogue));
  PipelineState<Layout> pipe;
  Accumulator<Layout::max_n> acc;
  TicketReader<typename Layout::Ring, true> tickets(base + Layout::tickets);
  for (int work = tickets.next(); work < total; work = tickets.next()) {
    const TileOutput tile = locate<Layout>(s, work, rank).output;
    if (tile.strip >= strips) {
      skip(base, k_blocks, pipe);
      continue;
    }
    typename Epilogue::Prepared prepared;
    accumulate<Layout, Weights::mn_major, false>(acc, base, 0, (tile.rows + 15) / 16 * 16, k_blocks, pipe,
                                                 [&] { prepared = Epilogue::prepare(epilogue, tile); });
    if (Epilogue::shares_staging) warpgroup_barrier(1);  // all warps' last stores have been read
    Epilogue::run(epilogue, prepared, acc, tile, shared + Layout::staging, 0);
  }
  Epilogue::finish();
}

template <class Layout, class Weights, class Epilogue>
__global__ void __launch_bounds__(Layout::threads, 1)
    token_product(const __grid_constant__ typename Weights::Source weights,
                  const __grid_constant__ typename Weights::Tokens tokens,
                  const __grid_constant__ TokenProductShape s,
                  const __grid_constant__ typename Epilogue::Arguments epilogue) {
  extern __shared__ __align__(1024) char shared[];
  const std::uint32_t base = kept_shared_address(shared);
  initialise_barriers<Layout>(base);
  wait_for_earlier_kernels();
  const int total = s.tiles.expert_tile_begin[s.experts] * s.units_per_tile;
  if (threadIdx.x >= Layout::consumer_threads) {
    set_registers_down<Weights::producer_registers>();
    if constexpr (Weights::converted) {
      if (threadIdx.x >= Layout::threads - 32)
        produce_codes<Layout, Epilogue>(weights, s, Epilogue::m_extent(epilogue), base, total);
      else
        convert_codes<Layout>(weights, tokens, s, base, total);
    } else {
      if (threadIdx.x == 256)
        produce_tokens<Layout, Weights, Epilogue>(weights, tokens, s, Epilogue::m_extent(epilogue), base,
                                                  total);
      if (Epilogue::may_gather && s.copy.tokens && threadIdx.x >= 288)
        copy_rows(s.copy, s.tiles, s.tile_rows, s.experts);
    }
  } else {
    set_registers_up<Weights::consumer_registers>();
    const int warpgroup = uniform(threadIdx.x / 128);
    if constexpr (Weights::converted)
      consume_alone<Layout, Weights, Epilogue>(s, epilogue, shared, base, total);
    else if constexpr (Layout::by_turns)
      consume_in_turn<Layout, Weights, Epilogue>(s, epilogue, shared, base, total, warpgroup);
    else
      consume_together<Layout, Weights, Epilogue>(weights, s, epilogue, shared, base, total, warpgroup);
  }
  leave<Layout>();
}

}  // namespace moeref::cuda::sm90
