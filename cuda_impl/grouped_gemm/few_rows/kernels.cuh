// Grouped products for experts of few rows: time is that of reading the weights once. out^T = W^T x^T by
// mma.sync m16n8k16 with the weights as its 16 rows and up to 32 tokens as its columns.
//
// A block of eight warps takes 128 columns of one expert: two runs of 64, gate and up where there are both,
// by four warps each that take every fourth step of K. Weights go straight from device memory to registers,
// numbers two steps ahead, codes one (up to 128 and 64 KiB on their way per multiprocessor, of about 30 that
// hide a latency of 0.8 us); tokens come from L2, which they do not leave. The parts of the four warps
// are added in a fixed order, so that the bits are the same on every run and in any batch. Experts of more
// than 32 rows read their weights again for each 32.
//
// Any number of rows is right; which are served is said by product_kinds.hpp.
#pragma once

#include <algorithm>

#include "cuda_impl/grouped_gemm/few_rows/plain_weights.cuh"
#include "cuda_impl/grouped_gemm/few_rows/products.hpp"
#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"
#include "cuda_impl/grouped_gemm/portable/epilogue.cuh"
#include "cuda_impl/memory/overlapped_launch.cuh"
#include "cuda_impl/permutation/tile_split.hpp"

namespace moeref::cuda::few_rows {

constexpr int kWarps = 8, kParts = kWarps / 2;
constexpr int kStride = portable::kResultStride;

/// The rows of one expert that are multiplied at a time.
template <class T>
struct Rows {
  const T* data;       // [R, k_extent], or by token
  const int* token;    // of a row, where they lie by token; else null
  std::int64_t first;  // of the R
  int count, k_extent;
};

/// One lane's tokens: lane / 4 and every eighth after it.
template <class T, int kGroups>
class Tokens {
 public:
  __device__ __forceinline__ explicit Tokens(const Rows<T>& rows) : k_extent_(rows.k_extent) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int i = threadIdx.x % 32 / 4 + 8 * g;
      const std::int64_t row = rows.first + i;
      from_[g] = i >= rows.count ? nullptr
                                 : rows.data + (rows.token ? rows.token[row] : row) * std::int64_t{k_extent_};
    }
  }
  /// Eight elements from k on, zeros where there is none.
  __device__ __forceinline__ uint4 load(int g, int k) const {
    return from_[g] != nullptr && k < k_extent_ ? *reinterpret_cast<const uint4*>(from_[g] + k) : uint4{};
  }
  __device__ __forceinline__ int k_extent() const { return k_extent_; }

 private:
  const T* from_[kGroups];
  int k_extent_;
};

/// The sums of a warp: of product m the columns of W, of group g the tokens 2 (lane % 4) and the next.
template <int kGroups>
using Sums = float[kGroups][4][4];

/// What a step of K takes of the tokens: eight elements per word, group and lane.
template <class Weights, int kGroups>
struct TokenStep {
  static constexpr int words = Weights::depth / 32;  // of eight elements of K per lane and token
  uint4 word[words][kGroups];

  __device__ __forceinline__ void load(const Tokens<typename Weights::Number, kGroups>& tokens, int k) {
    const int mine = k + threadIdx.x % 4 * (8 * words);
#pragma unroll
    for (int i = 0; i < words; ++i)
#pragma unroll
      for (int g = 0; g < kGroups; ++g) word[i][g] = tokens.load(g, mine + 8 * i);
  }
};

template <bool kWhole, class Weights, int kGroups>
__device__ __forceinline__ void multiply_step(const typename Weights::Block& block,
                                              const TokenStep<Weights, kGroups>& tokens,
                                              Sums<kGroups>& sums) {
#pragma unroll
  for (int i = 0; i < tokens.words; ++i) {
    uint4 t[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) t[g] = Weights::arranged(tokens.word[i][g]);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        std::uint32_t a[4];
        block.template fragment<kWhole>(a, m, 2 * i + half);
#pragma unroll
        for (int g = 0; g < kGroups; ++g)
          multiply_add<typename Weights::Number>(sums[g][m], a, few_rows::word(t[g], half * 2),
                                                 few_rows::word(t[g], half * 2 + 1));
      }
  }
}

/// Rows that are there.
template <class T>
struct GivenRows {
  static constexpr bool await_rows = false;
  const Rows<T>& rows;
  __device__ __forceinline__ const Rows<T>& operator()() const { return rows; }
};

/// Columns first .. first + 63 of expert e times its rows, every kParts-th step of K from `part` on, kAhead
/// steps of weights on their way while one is multiplied, and of tokens where these are few. Returns the rows
/// that `rows_of` gives, once the first weights are on their way where it awaits them: else before, since
/// loads are answered in order and tokens would come last.
template <class Weights, int kGroups, int kAhead, class RowsOf>
__device__ __forceinline__ Rows<typename Weights::Number> multiply(const Weights& w, const RowsOf& rows_of,
                                                                   int e, int first, int limit, int part,
                                                                   Sums<kGroups>& sums) {
  constexpr bool tokens_ahead = kGroups == 1;
  using Number = typename Weights::Number;
  const typename Weights::Reader reader(w, e, first, limit);
  typename Weights::Block blocks[kAhead];
  TokenStep<Weights, kGroups> steps[tokens_ahead ? kAhead : 1];
  constexpr int apart = kParts * Weights::depth;
  int k = part * Weights::depth;
  if constexpr (RowsOf::await_rows)
#pragma unroll
    for (int i = 0; i < kAhead; ++i) reader.load(blocks[i], k + i * apart);
  const Rows<Number> rows = rows_of();
  const Tokens<Number, kGroups> tokens(rows);
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if constexpr (tokens_ahead) steps[i].load(tokens, k + i * apart);
    if constexpr (!RowsOf::await_rows) reader.load(blocks[i], k + i * apart);
  }
  for (; k < tokens.k_extent(); k += kAhead * apart)
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      TokenStep<Weights, kGroups>& now = steps[tokens_ahead ? i : 0];
      if constexpr (!tokens_ahead) now.load(tokens, k + i * apart);
      if constexpr (Weights::scaled_by_step) {
        Sums<kGroups> step = {};
        multiply_step<false, Weights, kGroups>(blocks[i], now, step);
#pragma unroll
        for (int g = 0; g < kGroups; ++g)
#pragma unroll
          for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int q = 0; q < 4; ++q) sums[g][m][q] += blocks[i].scale(m, q / 2) * step[g][m][q];
      } else if (blocks[i].whole()) {
        multiply_step<true, Weights, kGroups>(blocks[i], now, sums);
      } else {
        multiply_step<false, Weights, kGroups>(blocks[i], now, sums);
      }
      reader.load(blocks[i], k + (kAhead + i) * apart);
      if constexpr (tokens_ahead) now.load(tokens, k + (kAhead + i) * apart);
    }
  return rows;
}

/// Rows of one expert times 128 columns of its weights, and what the epilogue makes of them.
template <class Weights, int kGroups, int kAhead = Weights::ahead, class RowsOf, class Epilogue>
__device__ __forceinline__ void tile(const Weights& w, const RowsOf& rows_of, int e, int m_tile,
                                     const Epilogue& epilogue, float (&parts)[kParts][8][kStride]) {
  const int warp = threadIdx.x / 32, run = warp % 2, part = warp / 2, lane = threadIdx.x % 32;
  const portable::Columns c = epilogue.columns(m_tile);
  Sums<kGroups> sums = {};
  const Rows<typename Weights::Number> rows = multiply<Weights, kGroups, kAhead>(
      w, rows_of, e, run == 0 ? c.first : c.second, run == 0 ? c.first_limit : c.second_limit, part, sums);
  const float scale = w.expert_scale(e);
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    if (8 * g >= rows.count) break;
    __syncthreads();  // the last eight rows have been read
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int q = 0; q < 4; ++q)
        parts[part][lane % 4 * 2 + q % 2][run * kColumns + Weights::column(m, q / 2)] = sums[g][m][q] * scale;
    __syncthreads();
    for (int i = threadIdx.x; i < 8 * 2 * kColumns; i += blockDim.x) {
      float* at = &parts[0][i / (2 * kColumns)][i % (2 * kColumns)];
      float sum = *at;
#pragma unroll
      for (int p = 1; p < kParts; ++p) sum += at[p * 8 * kStride];
      *at = sum;
    }
    __syncthreads();
    if (threadIdx.x < portable::kThreads<typename Weights::Number>)
      epilogue.run({e, rows.first + 8 * g, min(8, rows.count - 8 * g), m_tile}, parts[0][0]);
  }
}

struct Work {
  RowTiles tiles;
  int experts, tile_rows, m_tiles;
};

/// kMost: rows that are multiplied at a time. Those of 8 and 16 leave registers for two blocks a
/// multiprocessor.
template <class Weights, int kMost, class Epilogue>
__global__ void __launch_bounds__(kWarps * 32, kMost <= 16 ? 2 : 1)
    few_rows_product(const Work s, const Weights weights, const Rows<typename Weights::Number> all,
                     const Epilogue epilogue) {
  wait_for_earlier_kernels();
  __shared__ __align__(16) float parts[kParts][8][kStride];
  const std::int64_t total = std::int64_t{s.tiles.expert_tile_begin[s.experts]} * s.m_tiles;
  for (std::int64_t work = blockIdx.x; work < total; work += gridDim.x) {
    const std::int64_t t = work / s.m_tiles;
    const int e = s.tiles.tile_expert[t], m = static_cast<int>(work % s.m_tiles),
              begin = s.tiles.offsets[e * s.tiles.step],
              count = s.tiles.offsets[e * s.tiles.step + 1] - begin;
    const int size = tile_size(count, s.tile_rows);
    const int at = static_cast<int>(t - s.tiles.expert_tile_begin[e]) * size, end = min(at + size, count);
    for (int from = at; from < end; from += kMost) {
      Rows<typename Weights::Number> rows = all;
      rows.first = std::int64_t{begin} + from, rows.count = min(kMost, end - from);
      const GivenRows<typename Weights::Number> given{rows};
      if (kMost == 8 || rows.count <= 8)
        tile<Weights, 1>(weights, given, e, m, epilogue, parts);
      else if (kMost == 16 || rows.count <= 16)
        tile<Weights, kMost == 8 ? 1 : 2>(weights, given, e, m, epilogue, parts);
      else
        tile<Weights, kMost == 32 ? 4 : 1>(weights, given, e, m, epilogue, parts);
    }
  }
}

/// The epilogue of the first product for an activation that the kernel is told: the weights' loads are what
/// takes the time, and one kernel serves all.
template <class T>
struct AnyUp {
  portable::Up<T, Swiglu> halves;  // whose members are those of all
  Activation activation;

  template <class F>
  __device__ __forceinline__ void with_epilogue(const F& f) const {
    switch (activation) {
      case Activation::swiglu:
        return f(of<Swiglu>());
      case Activation::swigluoai:
        return f(of<SwigluOai>());
      case Activation::quick_geglu:
        return f(of<QuickGeglu>());
      case Activation::geglu:
        return f(of<Geglu>());
      case Activation::relu2:
        return f(of<Relu2>());
      // Portable's alone.
      case Activation::geglu_erf:
      case Activation::silu:
      case Activation::gelu:
      case Activation::gelu_tanh:
      case Activation::relu:
      case Activation::situ:
      case Activation::swiglu_clamped_after:
        return;
    }
  }
  template <class Act>
  __device__ __forceinline__ portable::Up<T, Act> of() const {
    return {halves.h,         halves.a,          halves.bias,  halves.row_weight,
            halves.inter_dim, halves.parameters, halves.eights};
  }
  __device__ __forceinline__ portable::Columns columns(int m_tile) const {
    portable::Columns out{};
    with_epilogue([&](const auto& up) { out = up.columns(m_tile); });
    return out;
  }
  __device__ __forceinline__ void run(const portable::TilePlace& tile, const float* result) const {
    with_epilogue([&](const auto& up) { up.run(tile, result); });
  }
};

template <class Weights, class Epilogue>
void launch(const char* name, const GroupedShape& g, const Weights& weights, const void* data,
            const int* row_token, int k_extent, int m_tiles, const Epilogue& epilogue, cudaStream_t stream) {
  using T = typename Weights::Number;
  const std::int64_t tiles = std::min(g.rows, g.rows / 16 + g.experts) * m_tiles;
  const Work work{row_tiles(g), g.experts, g.tile_rows, m_tiles};
  const auto blocks = static_cast<unsigned>(std::clamp<std::int64_t>(tiles, 1, 1 << 20));
  const Rows<T> rows{static_cast<const T*>(data), row_token, 0, 0, k_extent};
  const LaunchShape shape{blocks, kWarps * 32, 0, stream};
  // What an expert rarely has more of.
  if (g.rows <= 2 * std::int64_t{g.experts})
    launch_overlapped<few_rows_product<Weights, 8, Epilogue>>(name, shape, work, weights, rows, epilogue);
  else if (g.rows <= 8 * std::int64_t{g.experts})
    launch_overlapped<few_rows_product<Weights, 16, Epilogue>>(name, shape, work, weights, rows, epilogue);
  else
    launch_overlapped<few_rows_product<Weights, 32, Epilogue>>(name, shape, work, weights, rows, epilogue);
}

template <class T>
AnyUp<T> up_epilogue(const GroupedShape& g, const UpProduct& u, Activation activation,
                     const ActivationParameters& parameters) {
  return {{static_cast<T*>(u.h), static_cast<T*>(u.a), static_cast<const T*>(u.bias),
           u.weighted ? g.permutation.row_weight : nullptr, g.inter_dim, parameters,
           in_eights(g.inter_dim, u.h, u.a, u.bias)},
          activation};
}
template <class T>
portable::Store<T> down_epilogue(const GroupedShape& g, const StoredProduct& p) {
  return {static_cast<T*>(p.out), static_cast<const T*>(p.bias),  g.permutation.row_weight, g.dim,
          p.scale_product,        in_eights(g.dim, p.out, p.bias)};
}
static_assert(kTileColumns == 2 * kColumns);
/// Column tiles of the down product.
inline int down_tiles(const GroupedShape& g) { return (g.dim + kTileColumns - 1) / kTileColumns; }

template <class Weights>
void launch_up(const GroupedShape& g, const Weights& weights, const UpProduct& u, Activation activation,
               const ActivationParameters& parameters, cudaStream_t stream) {
  launch<Weights>("up_product", g, weights, u.tokens, g.permutation.row_token, g.dim, up_tiles(g, activation),
                  up_epilogue<typename Weights::Number>(g, u, activation, parameters), stream);
}

template <class Weights>
void launch_down(const GroupedShape& g, const Weights& weights, const StoredProduct& p, cudaStream_t stream) {
  launch<Weights>("down_product", g, weights, p.rows, nullptr, g.inter_dim, down_tiles(g),
                  down_epilogue<typename Weights::Number>(g, p), stream);
}

}  // namespace moeref::cuda::few_rows
