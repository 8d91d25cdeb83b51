// The kernels of the portable products and their launches, for one way of multiplying a tile (PortableTile,
// or one like it). Tiles of Tile::rows rows of one expert by 128 columns; blocks walk over the tiles, whose
// number only the device knows. Two blocks share a multiprocessor where its memory allows, and one multiplies
// while the other is in its epilogue.
#pragma once

#include <algorithm>

#include "cuda_impl/grouped_gemm/portable/epilogue.cuh"
#include "cuda_impl/grouped_gemm/portable/products.hpp"
#include "cuda_impl/memory/multiprocessors.hpp"
#include "cuda_impl/permutation/tile_split.hpp"
#include "moeref/cuda/error.hpp"

namespace moeref::cuda::portable {

template <class T>
struct TokenProductArguments {
  RowTiles tiles;
  const T *tokens, *weights;
  int k_extent, width;  // weights [E, k_extent, width], or [E, width, k_extent]
  int experts, tile_rows, m_tiles;
  bool eights;
};

template <class Tile, bool WeightsMnMajor, class Epilogue, class T = typename Tile::Element>
__global__ void __launch_bounds__(kThreads<T>, Tile::blocks)
    token_product(const TokenProductArguments<T> s, const Epilogue epilogue) {
  extern __shared__ __align__(1024) char shared[];
  const std::int64_t total = std::int64_t{s.tiles.expert_tile_begin[s.experts]} * s.m_tiles;
  for (std::int64_t work = blockIdx.x; work < total; work += gridDim.x) {
    const int e = s.tiles.tile_expert[work / s.m_tiles], begin = s.tiles.offsets[e * s.tiles.step],
              rows = s.tiles.offsets[e * s.tiles.step + 1] - begin;
    const int size = tile_size(rows, s.tile_rows), count = (rows + size - 1) / size;
    const std::int64_t local = work - std::int64_t{s.tiles.expert_tile_begin[e]} * s.m_tiles;
    const int m = static_cast<int>(local / count), at = static_cast<int>(local % count) * size;
    const TilePlace tile{e, std::int64_t{begin} + at, min(size, rows - at), m};
    const Operand<T, true> tokens{
        {s.tokens + tile.row * s.k_extent, s.k_extent, tile.rows}, s.k_extent, s.eights};
    const T* mine = s.weights + std::int64_t{e} * s.k_extent * s.width;
    if constexpr (WeightsMnMajor) {
      const Operand<T, false> weights{{mine, s.width, s.k_extent}, epilogue.columns(m), s.eights};
      epilogue.run(tile, Tile::multiply(tokens, weights, s.k_extent, tile.rows, shared));
    } else {
      const Operand<T, true> weights{
          {mine + std::int64_t{m} * kTile * s.k_extent, s.k_extent, s.width - m * kTile},
          s.k_extent,
          s.eights};
      epilogue.run(tile, Tile::multiply(tokens, weights, s.k_extent, tile.rows, shared));
    }
  }
}

template <class T>
struct WeightGradientArguments {
  const int* offsets;  // of expert e: [e * step]
  int step;
  const T *left, *right;  // [R, left_width], [R, right_width]
  T* out;                 // [E, left_width, right_width]
  int left_width, right_width, experts, m_tiles, n_tiles;
  bool eights;
};

template <class T>
__device__ Operand<T, false> rows_of_expert(const T* data, int begin, int rows, int width, int first,
                                            bool eights) {
  return {{data + std::int64_t{begin} * width, width, rows}, adjacent(first, width), eights};
}

template <class Tile, class T = typename Tile::Element>
__global__ void __launch_bounds__(kThreads<T>, Tile::blocks)
    weight_gradient(const WeightGradientArguments<T> s) {
  extern __shared__ __align__(1024) char shared[];
  const std::int64_t per_expert = std::int64_t{s.m_tiles} * s.n_tiles, total = per_expert * s.experts;
  for (std::int64_t work = blockIdx.x; work < total; work += gridDim.x) {
    const int e = static_cast<int>(work / per_expert), begin = s.offsets[e * s.step],
              rows = s.offsets[(e + 1) * s.step] - begin;
    const int m = static_cast<int>(work % per_expert / s.n_tiles), n = static_cast<int>(work % s.n_tiles);
    const int left = s.left_width - m * Tile::rows;
    const float* result = Tile::multiply(
        rows_of_expert(s.left, begin, rows, s.left_width, m * Tile::rows, s.eights),
        rows_of_expert(s.right, begin, rows, s.right_width, n * kTile, s.eights), rows, left, shared);
    T* out = s.out + (std::int64_t{e} * s.left_width + m * Tile::rows) * s.right_width;
    for (int i = threadIdx.x; i < min(Tile::rows, left) * (kTile / 8); i += kThreads<T>) {
      const int row = i / (kTile / 8), column = i % (kTile / 8) * 8;
      float v[8];
      read_eight(result + row * kResultStride + column, v);
      store_eight(out + std::int64_t{row} * s.right_width, n * kTile + column, s.right_width, s.eights, v);
    }
  }
}

inline unsigned blocks(std::int64_t tiles) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(tiles, 1, std::int64_t{multiprocessors()} * 8));
}

template <class Kernel>
void allow_shared_bytes(Kernel* kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
}

inline int tiles_over(int width, int tile) { return (width + tile - 1) / tile; }

template <class Tile, bool WeightsMnMajor, class Epilogue>
void launch_tokens(const char* name, const GroupedShape& g, const void* tokens, const void* weights,
                   int k_extent, int width, int m_tiles, const Epilogue& epilogue, cudaStream_t stream) {
  using T = typename Tile::Element;
  const bool eights = in_eights(g.dim, tokens, weights) && g.inter_dim % 8 == 0;
  const TokenProductArguments<T> s{row_tiles(g),
                                   static_cast<const T*>(tokens),
                                   static_cast<const T*>(weights),
                                   k_extent,
                                   width,
                                   g.experts,
                                   g.tile_rows,
                                   m_tiles,
                                   eights};
  allow_shared_bytes(token_product<Tile, WeightsMnMajor, Epilogue>, Tile::shared_bytes);
  token_product<Tile, WeightsMnMajor>
      <<<blocks((g.rows / 16 + g.experts) * m_tiles), kThreads<T>, Tile::shared_bytes, stream>>>(s, epilogue);
  check(cudaGetLastError(), name);
}

template <class Tile, class Act>
void launch_up(const GroupedShape& g, const UpProduct& u, const ActivationParameters& parameters,
               cudaStream_t stream) {
  using T = typename Tile::Element;
  const int width = is_gated_layout<Act> ? 2 * g.inter_dim : g.inter_dim;
  const Up<T, Act> epilogue{static_cast<T*>(u.h),
                            static_cast<T*>(u.a),
                            static_cast<const T*>(u.bias),
                            u.weighted ? g.permutation.row_weight : nullptr,
                            g.inter_dim,
                            parameters,
                            in_eights(g.inter_dim, u.h, u.a, u.bias)};
  launch_tokens<Tile, true>("up_product", g, u.rows, u.weights, g.dim, width,
                            tiles_over(g.inter_dim, Up<T, Act>::inner), epilogue, stream);
}

template <class Tile, class Act>
void launch_down_gradient(const GroupedShape& g, const DownGradient& d,
                          const ActivationParameters& parameters, cudaStream_t stream) {
  using T = typename Tile::Element;
  const DownGradientOf<T, Act> epilogue{static_cast<const T*>(d.h),
                                        static_cast<T*>(d.dh),
                                        static_cast<T*>(d.a),
                                        g.permutation.row_weight,
                                        d.dot_parts,
                                        g.inter_dim,
                                        parameters,
                                        in_eights(g.inter_dim, d.h, d.dh, d.a)};
  launch_tokens<Tile, false>("down_gradient_product", g, d.dy, d.weights, g.dim, g.inter_dim,
                             tiles_over(g.inter_dim, kTile), epilogue, stream);
}

template <class Tile, bool WeightsMnMajor>
void launch_stored(const GroupedShape& g, const StoredProduct& p, int k_extent, cudaStream_t stream) {
  using T = typename Tile::Element;
  const Store<T> epilogue{static_cast<T*>(p.out),   static_cast<const T*>(p.bias),
                          g.permutation.row_weight, g.dim,
                          p.scale_product,          in_eights(g.dim, p.out, p.bias)};
  launch_tokens<Tile, WeightsMnMajor>(WeightsMnMajor ? "down_product" : "input_gradient_product", g, p.rows,
                                      p.weights, k_extent, g.dim, tiles_over(g.dim, kTile), epilogue, stream);
}

template <class Tile>
void launch_weight_gradient(const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
  using T = typename Tile::Element;
  const WeightGradientArguments<T> s{
      g.permutation.offsets,
      g.permutation.chunks,
      static_cast<const T*>(p.left),
      static_cast<const T*>(p.right),
      static_cast<T*>(p.out),
      p.left_width,
      p.right_width,
      g.experts,
      tiles_over(p.left_width, Tile::rows),
      tiles_over(p.right_width, kTile),
      in_eights(p.left_width, p.left, p.right, p.out) && p.right_width % 8 == 0};
  allow_shared_bytes(weight_gradient<Tile>, Tile::shared_bytes);
  weight_gradient<Tile>
      <<<blocks(std::int64_t{s.m_tiles} * s.n_tiles * s.experts), kThreads<T>, Tile::shared_bytes, stream>>>(
          s);
  check(cudaGetLastError(), "weight_gradient_product");
}

template <class Tile>
struct ProductsOf {
  template <Activation A>
  struct With {
    static constexpr ActivationProducts products = {launch_up<Tile, MathOf<A>>,
                                                    launch_down_gradient<Tile, MathOf<A>>};
  };
};

/// Every product by one way of multiplying tiles.
template <class Tile>
inline constexpr GroupedProducts kProductsOf = {
    by_activation<ProductsOf<Tile>::template With>(),
    [](const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
      launch_stored<Tile, true>(g, p, g.inter_dim, stream);
    },
    [](const GroupedShape& g, const StoredProduct& p, int up_width, cudaStream_t stream) {
      launch_stored<Tile, false>(g, p, up_width, stream);
    },
    launch_weight_gradient<Tile>};

}  // namespace moeref::cuda::portable
