// The table of products of one element type.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/kernels.cuh"
#include "cuda_impl/grouped_gemm/few_rows/products.hpp"

namespace moeref::cuda::few_rows {

template <class T, const GroupedProducts& kGradients>
struct ProductsOf {
  static void up(const GroupedShape& g, const UpProduct& u, Activation activation,
                 const ActivationParameters& parameters, cudaStream_t stream) {
    if (g.format != WeightFormat::none)
      return code_products(g.format).up(g, u, activation, parameters, stream);
    const int width = is_gated(activation) ? 2 * g.inter_dim : g.inter_dim;
    launch_up(g, PlainWeights<T>{static_cast<const T*>(u.weights), g.dim, width}, u, activation, parameters,
              stream);
  }
  static void down(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
    if (g.format != WeightFormat::none) return code_products(g.format).down(g, p, stream);
    launch_down(g, PlainWeights<T>{static_cast<const T*>(p.weights), g.inter_dim, g.dim}, p, stream);
  }

  template <Activation A>
  struct With {
    static constexpr ActivationProducts products = {
        [](const GroupedShape& g, const UpProduct& u, const ActivationParameters& parameters,
           cudaStream_t stream) { up(g, u, A, parameters, stream); },
        [](const GroupedShape& g, const DownGradient& d, const ActivationParameters& parameters,
           cudaStream_t stream) {
          kGradients.activations[static_cast<std::size_t>(A)]->down_gradient(g, d, parameters, stream);
        }};
  };
  static constexpr GroupedProducts products = {
      by_activation<With, kDocumentedActivationCount>(), down,
      [](const GroupedShape& g, const StoredProduct& p, int up_width, cudaStream_t stream) {
        kGradients.input_gradient(g, p, up_width, stream);
      },
      [](const GroupedShape& g, const WeightGradient& p, cudaStream_t stream) {
        kGradients.weight_gradient(g, p, stream);
      }};
};

}  // namespace moeref::cuda::few_rows
