// A pass of up to eight tokens after the sort in one launch: what kernels.cuh computes in two, and the sums
// of unpermute(), bit for bit. Floor: the touched experts' weights read once.
//
// Between launches nothing is read: 4 us of the 39 that one token of 8 experts of 9.4 MB took in four
// launches go by from the last load of one to the first of the next, and its 18 us of loads went by at two
// thirds of the memory's rate because each launch runs out in turn. Here the blocks draw tickets for tiles of
// 128 columns: first all of the up product, then all of the down product. A tile of the latter has its first
// weights on their way to registers before it waits for its expert's rows of A'; whichever block completes
// 128 columns of the last expert adds up these columns of all tokens.
//
// No circle of waiting: tickets are drawn in order, and tiles of the up product wait for nothing. A block
// that draws ahead holds one of the up product only while it works on another of them.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/kernels.cuh"

namespace moeref::cuda::few_rows {

/// Counters in device memory, 0 before the launch.
struct Progress {
  int* drawn;      // tickets
  int* activated;  // [row tiles] column tiles of A' that are stored
  int* stored;     // [column tiles] row tiles of the down product that are stored
};

/// A tile's stores are seen by whoever finds `counter` increased. Returns what it was, to thread 0.
__device__ __forceinline__ int publish(int* counter) {
  __syncthreads();
  if (threadIdx.x != 0) return 0;
  __threadfence();
  return atomicAdd(counter, 1);
}
/// All threads see what was stored before `counter` became `count`.
__device__ __forceinline__ void await(const int* counter, int count) {
  if (threadIdx.x == 0) {
    while (*static_cast<const volatile int*>(counter) < count) __nanosleep(20);
    __threadfence();
  }
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
      for (int j = 0; j < slots; j += 8) {
        Packed<8, T> packed[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int row = j + i < slots ? slot_row[t * slots + j + i] : -1;
          if (row >= 0) packed[i].load(rows + std::int64_t{row} * dim + c);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float v[8];
          packed[i].unpack(v);
#pragma unroll
          for (int q = 0; q < 8; ++q) sum[q] += v[q];
        }
      }
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

/// The rows of row tile t, an expert's of at most `tile_rows`, eight at a time; `ready` is called before the
/// first of them are read, when weights are on their way.
template <int kBlocks, class Weights, class Ready, class Epilogue>
__device__ __forceinline__ void tile_of_rows(const Pass<Weights>& p, const Weights& weights,
                                             const Rows<typename Weights::Number>& all, int t, int e, int m,
                                             const Epilogue& epilogue, const Ready& ready,
                                             float (&parts)[kParts][8][kStride]) {
  Rows<typename Weights::Number> rows = all;
  std::int64_t from = 0, end = 0;
  bool known = false;
  do {
    tile<Weights, 1, kBlocks == 1 ? 2 * Weights::ahead : Weights::ahead>(
        weights,
        [&] {
          if (!known) {
            const int begin = p.tiles.offsets[e * p.tiles.step],
                      count = p.tiles.offsets[e * p.tiles.step + 1] - begin,
                      size = tile_size(count, p.tile_rows), at = (t - p.tiles.expert_tile_begin[e]) * size;
            from = std::int64_t{begin} + at, end = std::int64_t{begin} + min(at + size, count);
            ready();
            known = true;
          }
          rows.first = from, rows.count = static_cast<int>(min(std::int64_t{8}, end - from));
          return rows;
        },
        e, m, epilogue, parts);
    from += 8;
  } while (from < end);
}

template <class Weights, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks) few_rows_pass(const Pass<Weights> p) {
  wait_for_earlier_kernels();
  __shared__ __align__(16) float parts[kParts][8][kStride];
  __shared__ int experts[kWholePassRows];
  __shared__ int shared_work, shared_tiles, shared_last;
  if (threadIdx.x == 0) shared_work = atomicAdd(p.progress.drawn, 1);
  if (threadIdx.x == 32) shared_tiles = p.tiles.expert_tile_begin[p.experts];
  // Those past the last row tile are not used.
  for (int i = threadIdx.x; i < p.most_tiles; i += blockDim.x) experts[i] = p.tiles.tile_expert[i];
  __syncthreads();
  const int row_tiles = shared_tiles, ups = row_tiles * p.up_tiles, total = ups + row_tiles * p.down_tiles;
  if (row_tiles == 0)
    for (int m = blockIdx.x; m < p.down_tiles; m += gridDim.x) p.sums.add(m * 2 * kColumns);
  for (int work = shared_work; work < total;) {
    int next = 0;
    if (threadIdx.x == 0) next = atomicAdd(p.progress.drawn, 1);
    if (work < ups) {
      const int t = work / p.up_tiles, m = work % p.up_tiles;
      tile_of_rows<kBlocks>(
          p, p.up, p.tokens, t, experts[t], m, p.activate, [] {}, parts);
      publish(p.progress.activated + t);
    } else {
      const int t = (work - ups) / p.down_tiles, m = (work - ups) % p.down_tiles;
      tile_of_rows<kBlocks>(
          p, p.down, p.a, t, experts[t], m, p.store, [&] { await(p.progress.activated + t, p.up_tiles); },
          parts);
      const int earlier = publish(p.progress.stored + m);
      if (threadIdx.x == 0) {
        shared_last = earlier == row_tiles - 1;
        if (shared_last) __threadfence();
      }
      __syncthreads();
      if (shared_last) p.sums.add(m * 2 * kColumns);
    }
    if (threadIdx.x == 0) shared_work = next;
    __syncthreads();
    work = shared_work;
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
                           {counters, counters + 1, counters + 1 + kWholePassRows}};
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  const std::int64_t tiles = std::int64_t{most} * (pass.up_tiles + pass.down_tiles);
  const auto launch = [&]<int kBlocks>() {
    const std::int64_t blocks = std::min<std::int64_t>(tiles, kBlocks * std::int64_t{multiprocessors});
    launch_overlapped<few_rows_pass<Weights, kBlocks>>(
        "few_rows_pass", {static_cast<unsigned>(blocks), kWarps * 32, 0, stream}, pass);
  };
  static const int tried = getenv("MOEREF_BLOCKS") ? atoi(getenv("MOEREF_BLOCKS")) : 1;
  if (tried == 1)
    launch.template operator()<1>();
  else
    launch.template operator()<2>();
}

}  // namespace moeref::cuda::few_rows
