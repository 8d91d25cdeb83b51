// The products without an activation, and the table of those with one.
#include "grouped_gemm/grouped_gemm.hpp"

#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/launch_sm90.cuh"
#include "grouped_gemm/weight_gradient_sm90.cuh"

namespace moeref::cuda {
namespace {

const ActivationProducts& products(Activation a) {
  static const ActivationProducts* const table[] = {&kSwigluProducts, &kSwigluOaiProducts,
                                                    &kQuickGegluProducts, &kGegluProducts, &kRelu2Products};
  return *table[static_cast<int>(a)];
}

using Layout = sm90::TokenLayout<sm90::StoreRows>;

sm90::StoreRows::Arguments store(const GroupedShape& g, const StoredProduct& p, int width) {
  return {
      p.out,          width, width, p.bias, p.bias || p.scale_product ? g.permutation.row_weight : nullptr,
      p.scale_product};
}

}  // namespace

void up_product(const GroupedShape& g, const UpProduct& p, Activation a,
                const ActivationParameters& parameters, cudaStream_t stream) {
  products(a).up(g, p, parameters, stream);
}

void down_gradient_product(const GroupedShape& g, const DownGradient& p, Activation a,
                           const ActivationParameters& parameters, cudaStream_t stream) {
  products(a).down_gradient(g, p, parameters, stream);
}

void down_product(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
  sm90::launch<sm90::token_product<Layout, false, true, sm90::StoreRows>>(
      "down_product", Layout::total, stream, sm90::weights_mn_major(p.weights, g.experts, g.inter_dim, g.dim),
      tensor_map(p.rows, 1, g.rows, g.inter_dim, sm90::kTokenBox, 64),
      sm90::token_shape(g, nullptr, g.inter_dim, sm90::m_tiles_of<sm90::StoreRows>(g.dim)),
      store(g, p, g.dim));
}

void input_gradient_product(const GroupedShape& g, const StoredProduct& p, int up_width,
                            cudaStream_t stream) {
  sm90::launch<sm90::token_product<Layout, false, false, sm90::StoreRows>>(
      "input_gradient_product", Layout::total, stream,
      sm90::weights_k_major(p.weights, g.experts, g.dim, up_width),
      tensor_map(p.rows, 1, g.rows, up_width, sm90::kTokenBox, 64),
      sm90::token_shape(g, nullptr, up_width, sm90::m_tiles_of<sm90::StoreRows>(g.dim)), store(g, p, g.dim));
}

void weight_gradient_product(const GroupedShape& g, const __nv_bfloat16* rows, int m_width,
                             const __nv_bfloat16* tokens, int n_width, bool transposed, __nv_bfloat16* out,
                             cudaStream_t stream) {
  using Gradient = sm90::SharedLayout<128, 4, sm90::StoreColumns::staging_bytes>;
  const sm90::WeightGradientShape shape{
      g.permutation.offsets, g.permutation.row_token, rows, tokens, out, m_width, n_width, g.experts,
      (m_width + 255) / 256, (n_width + 255) / 256};
  const CUtensorMap map = tensor_map(rows, 1, g.rows, m_width, 64, 64);
  if (transposed)
    sm90::launch<sm90::weight_gradient<Gradient, true>>("weight_gradient_product", Gradient::total, stream,
                                                        map, shape);
  else
    sm90::launch<sm90::weight_gradient<Gradient, false>>("weight_gradient_product", Gradient::total, stream,
                                                         map, shape);
}

}  // namespace moeref::cuda
