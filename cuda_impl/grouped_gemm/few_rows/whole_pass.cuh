// A pass of up to eight tokens after the sort in one launch: what kernels.cuh computes in two, and the sums
// of unpermute(), bit for bit. Floor: the touched experts' weights read once.
//
// The blocks draw tickets for tiles of 128 columns: first all of the up product, then all of the down
// product. A tile of the latter has its first weights on their way to registers before it waits for its
// expert's rows of A', so that memory goes on working where separate launches run out and start again;
// whichever block completes 128 columns of the last expert adds up these columns of all tokens.
//
// No circle of waiting: tickets are drawn in order, and tiles of the up product wait for nothing. A block
// that draws ahead holds one of the up product only while it works on another of them.
//
// Measured on an H200, of the rate at which it copies: qwen3_30b with 1, 4 and 8 tokens 0.57, 0.86, 0.96
// where four launches with a slower sort had 0.49, 0.72, 0.81
// (tools/bench/results/2026-11-30-h200-decode.md).
#pragma once

#include <cuda/atomic>

#include "cuda_impl/grouped_gemm/few_rows/kernels.cuh"
#include "cuda_impl/memory/multiprocessors.hpp"
#include "cuda_impl/permutation/add_rows.cuh"

namespace moeref::cuda::few_rows {

/// Counters in device memory, 0 before the launch.
struct Progress {
  int* drawn;      // tickets
  int* activated;  // [row tiles] column tiles of A' that are stored
  int* stored;     // [column tiles] row tiles of the down product that are stored
};

using Counter = ::cuda::atomic_ref<int, ::cuda::thread_scope_device>;

/// By one thread after a barrier: what all threads of the block stored before it is seen by whoever finds the
/// counter increased. Returns what it was; whoever makes it complete sees what the others stored.
__device__ __forceinline__ int publish(int* counter) {
  return Counter(*counter).fetch_add(1, ::cuda::memory_order_acq_rel);
}
/// All threads see what was stored before the counter became `count`.
__device__ __forceinline__ void await(int* counter, int count) {
  if (threadIdx.x == 0)
    while (Counter(*counter).load(::cuda::memory_order_acquire) < count) __nanosleep(20);
  __syncthreads();
}

template <class T>
struct TokenSums {
  const T* rows;        // [R, dim]
  const int* slot_row;  // [tokens * slots], -1: none
  T* out;               // [tokens, dim]
  int tokens, slots, dim;

  /// Columns first .. first + 127 of every token, in the order of its slots.
  __device__ __forceinline__ void add(int first) const {
    const int c = first + threadIdx.x % 16 * 8;
    if (c >= dim) return;
    for (int t = threadIdx.x / 16; t < tokens; t += kWarps * 2) {
      float sum[8] = {};
      add_rows(
          rows, dim, slots, c, [&](int j) { return std::int64_t{slot_row[t * slots + j]}; }, sum);
      store<8>(out + std::int64_t{t} * dim + c, sum);
    }
  }
};

template <class Weights>
struct Pass {
  using T = typename Weights::Number;
  RowTiles tiles;
  int experts, tile_rows, most_tiles, up_tiles, down_tiles;
  Weights up, down;
  Rows<T> tokens, a;
  AnyUp<T> activate;
  portable::Store<T> store;
  TokenSums<T> sums;
  Progress progress;
};

/// The row tiles, in shared memory.
struct TileTable {
  struct Tile {
    int expert, first, count;
  } tiles[kPassRows];
  int token[kPassRows];  // of a row

  /// Reads what there is room for; the entries past the last tile are of no meaning.
  template <class P>
  __device__ __forceinline__ void read(const P& p) {
    for (int t = threadIdx.x; t < p.most_tiles; t += blockDim.x) {
      const int expert = min(max(p.tiles.tile_expert[t], 0), p.experts - 1);
      const int begin = p.tiles.offsets[expert * p.tiles.step],
                count = p.tiles.offsets[expert * p.tiles.step + 1] - begin,
                size = tile_size(count, p.tile_rows), at = (t - p.tiles.expert_tile_begin[expert]) * size;
      tiles[t] = {expert, begin + at, min(size, count - at)};
    }
    for (int r = threadIdx.x; r < p.sums.tokens * p.sums.slots; r += blockDim.x) token[r] = p.tokens.token[r];
  }
};

/// Eight rows of a tile, from `done` on; `ready` is called before the first of them are read.
template <class T, bool kAwait, class Ready>
struct TileRows {
  static constexpr bool await_rows = kAwait;
  Rows<T> all;
  const TileTable::Tile& tile;
  int done;
  const Ready& ready;
  __device__ __forceinline__ Rows<T> operator()() const {
    if (done == 0) ready();
    Rows<T> rows = all;
    rows.first = tile.first + done, rows.count = min(8, tile.count - done);
    return rows;
  }
};

template <int kBlocks, bool kAwait, class Weights, class Epilogue, class Ready>
__device__ __forceinline__ void tile_of_rows(const Weights& weights,
                                             const Rows<typename Weights::Number>& all,
                                             const TileTable::Tile& at, int m, const Epilogue& epilogue,
                                             float (&parts)[kParts][8][kStride], const Ready& ready) {
  int done = 0;
  do {
    tile<Weights, 1, kBlocks == 1 ? 2 * Weights::ahead : Weights::ahead>(
        weights, TileRows<typename Weights::Number, kAwait, Ready>{all, at, done, ready}, at.expert, m,
        epilogue, parts);
    done += 8;
  } while (done < at.count);
}

/// kBlocks: of a multiprocessor.
template <class Weights, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks) few_rows_pass(const Pass<Weights> p) {
  wait_for_earlier_kernels();
  __shared__ __align__(16) float parts[kParts][8][kStride];
  __shared__ TileTable table;
  __shared__ int shared_work, shared_tiles, shared_last;
  if (threadIdx.x == kWarps * 32 - 1) {
    shared_tiles = p.tiles.expert_tile_begin[p.experts];
    shared_work = atomicAdd(p.progress.drawn, 1);
  }
  table.read(p);
  __syncthreads();
  const int row_tiles = shared_tiles, ups = row_tiles * p.up_tiles, total = ups + row_tiles * p.down_tiles;
  Rows<typename Weights::Number> tokens = p.tokens;
  tokens.token = table.token;
  if (row_tiles == 0)
    for (int m = blockIdx.x; m < p.down_tiles; m += gridDim.x) p.sums.add(m * kTileColumns);
  for (int work = shared_work; work < total;) {
    // A tile that waits draws its block's next when it goes on, and not before: others may be free sooner.
    int next = 0;
    const auto draw = [&] {
      if (threadIdx.x == 0) next = atomicAdd(p.progress.drawn, 1);
    };
    const bool is_up = work < ups;
    const int columns = is_up ? p.up_tiles : p.down_tiles, place = is_up ? work : work - ups,
              t = place / columns, m = place % columns;
    if (is_up)
      tile_of_rows<kBlocks, false>(p.up, tokens, table.tiles[t], m, p.activate, parts, draw);
    else
      tile_of_rows<kBlocks, true>(p.down, p.a, table.tiles[t], m, p.store, parts, [&] {
        await(p.progress.activated + t, p.up_tiles);
        draw();
      });
    if (threadIdx.x == 0) shared_work = next;
    __syncthreads();  // the tile is stored
    work = shared_work;
    if (is_up) {
      if (threadIdx.x == 0) publish(p.progress.activated + t);
      continue;
    }
    if (threadIdx.x == 0) shared_last = publish(p.progress.stored + m) == row_tiles - 1;
    __syncthreads();
    if (shared_last) p.sums.add(m * kTileColumns);
  }
}

template <class Weights>
void launch_whole_pass(const GroupedShape& g, const Weights& up, const Weights& down, const WholePass& w,
                       Activation activation, const ActivationParameters& parameters, cudaStream_t stream) {
  using T = typename Weights::Number;
  const int most = static_cast<int>(std::min(g.rows, g.permutation.most_tiles));
  int* const counters = w.progress;
  const Pass<Weights> pass{row_tiles(g),
                           g.experts,
                           g.tile_rows,
                           most,
                           up_tiles(g, activation),
                           down_tiles(g),
                           up,
                           down,
                           {static_cast<const T*>(w.up.tokens), g.permutation.row_token, 0, 0, g.dim},
                           {static_cast<const T*>(w.down.rows), nullptr, 0, 0, g.inter_dim},
                           up_epilogue<T>(g, w.up, activation, parameters),
                           down_epilogue<T>(g, w.down),
                           {static_cast<const T*>(w.down.out), g.permutation.slot_row, static_cast<T*>(w.out),
                            static_cast<int>(w.tokens), w.slots, g.dim},
                           {counters, counters + 1, counters + 1 + kPassRows}};
  const std::int64_t tiles = std::int64_t{most} * (pass.up_tiles + pass.down_tiles);
  const auto launch = [&]<int kBlocks>() {
    const std::int64_t blocks = std::min<std::int64_t>(tiles, kBlocks * std::int64_t{multiprocessors()});
    launch_overlapped<few_rows_pass<Weights, kBlocks>>(
        "few_rows_pass", {static_cast<unsigned>(blocks), kWarps * 32, 0, stream}, pass);
  };
  if (blocks_of_pass(g, activation) == 1)
    launch.template operator()<1>();
  else
    launch.template operator()<2>();
}

}  // namespace moeref::cuda::few_rows
