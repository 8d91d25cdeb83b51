// The products without an activation in their epilogue, and the tables of all.
#include "cuda_impl/grouped_gemm/sm90/products.hpp"

#include <algorithm>

#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"
#include "cuda_impl/grouped_gemm/sm90/weight_gradient.cuh"

namespace moeref::cuda::sm90 {
namespace {

/// Layouts of the weight gradients, for experts that have up to 320 rows on average, or more.
using FewRows = GradientLayout<192, 5, 1>;
template <int Cluster>
using ManyRows = GradientLayout<256, 4, Cluster>;

StoreRowsArguments store(const GroupedShape& g, const StoredProduct& p, int width) {
  return {static_cast<bf16*>(p.out),
          width,
          width,
          static_cast<const bf16*>(p.bias),
          p.bias || p.scale_product ? g.permutation.row_weight : nullptr,
          p.scale_product};
}

/// C rows = `rows` [R, K] W, with W [K, width] of each expert.
template <class Weights, int Strips, int Cluster, bool Scaled>
void stored_product(const char* name, const GroupedShape& g, const StoredProduct& p, int k_extent, int width,
                    cudaStream_t stream) {
  using Epilogue =
      std::conditional_t<Strips == 1 && !Weights::converted, StoreRowsInBulk<Scaled>, StoreRows<Scaled>>;
  using Layout = TokenLayout<Weights, Epilogue, Strips, Cluster>;
  launch<token_product<Layout, Weights, Epilogue>, Layout>(
      name, stream, weights_of<Weights, Epilogue>(g, p, k_extent, width),
      tokens_of<Weights>(g, p.rows, p.row_scales, k_extent),
      token_shape<Layout, Epilogue>(g, k_extent, width), store(g, p, width));
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Units that leave every block about eight of them, and of 16 tiles at the most.
int unit_tiles(const WeightGradientShape& s) {
  const std::int64_t tiles = std::int64_t{s.experts} * s.m_tiles * s.n_tiles;
  const std::int64_t most = std::clamp<std::int64_t>(tiles / (8 * multiprocessors()), 1, 16);
  return static_cast<int>(ceil_div(s.m_tiles, ceil_div(s.m_tiles, most)));
}

template <class Layout>
void weight_gradient_of(const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
  WeightGradientShape shape{g.permutation.offsets,
                            g.permutation.chunks,
                            p.left_width,
                            p.right_width,
                            g.experts,
                            static_cast<int>(ceil_div(p.left_width, kTileM * Layout::cluster)),
                            static_cast<int>(ceil_div(p.right_width, Layout::n)),
                            1,
                            0,
                            p.left_width < p.right_width,
                            {g.tickets}};
  if constexpr (Layout::n == FewRows::n) shape.unit_tiles = unit_tiles(shape);
  shape.m_units = static_cast<int>(ceil_div(shape.m_tiles, shape.unit_tiles));
  const auto by_row = [&](const void* rows, int width) {
    return tensor_map(static_cast<const bf16*>(rows), 1, g.rows, width, 64, 64);
  };
  launch<weight_gradient<Layout>, Layout>("weight_gradient_product", stream, by_row(p.left, p.left_width),
                                          by_row(p.right, p.right_width),
                                          tensor_map(static_cast<const bf16*>(p.out), g.experts, p.left_width,
                                                     p.right_width, kStoreRows, kStoreColumns),
                                          shape);
}

template <class Weights, int Strips, int Cluster>
void down_product_of(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
  const auto run = p.bias || p.scale_product ? stored_product<Weights, Strips, Cluster, true>
                                             : stored_product<Weights, Strips, Cluster, false>;
  run("down_product", g, p, g.inter_dim, g.dim, stream);
}

template <int Strips, int Cluster>
void down_product(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
  if constexpr (Strips == 1)
    if (g.format != WeightFormat::none) return down_product_of<CodedWeights, Strips, Cluster>(g, p, stream);
  down_product_of<WeightsByTma<true>, Strips, Cluster>(g, p, stream);
}

template <int Strips, int Cluster>
void input_gradient_product(const GroupedShape& g, const StoredProduct& p, int up_width,
                            cudaStream_t stream) {
  stored_product<WeightsByTma<false>, Strips, Cluster, false>("input_gradient_product", g, p, up_width, g.dim,
                                                              stream);
}

template <int Cluster>
void weight_gradient_product(const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
  const bool few = g.expected_rows <= std::int64_t{g.experts} * FewRows::right_slots * kBlockK;
  (few ? weight_gradient_of<FewRows> : weight_gradient_of<ManyRows<Cluster>>)(g, p, stream);
}

template <int Strips, int Cluster>
struct Products {
  template <Activation A>
  using Of = ProductsOf<A, Strips, Cluster>;
  static constexpr GroupedProducts all = {
      by_activation<Of, kDocumentedActivationCount>(), down_product<Strips, Cluster>,
      input_gradient_product<Strips, Cluster>, weight_gradient_product<Cluster>};
};

}  // namespace

constinit const GroupedProducts kOneBlockProducts = Products<2, 1>::all;
constinit const GroupedProducts kClusterProducts = Products<2, 2>::all;
constinit const GroupedProducts kTurnProducts = Products<1, 2>::all;
constinit const GroupedProducts kCodeProducts = {by_activation<CodeProductsOf, kDocumentedActivationCount>(),
                                                 down_product_of<E4m3Operands, 2, 2>,
                                                 input_gradient_product<2, 2>, weight_gradient_product<2>};

}  // namespace moeref::cuda::sm90
