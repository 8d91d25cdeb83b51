// The table of products of one element type.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/kernels.cuh"
#include "cuda_impl/grouped_gemm/few_rows/products.hpp"
#include "cuda_impl/grouped_gemm/few_rows/whole_pass.cuh"

namespace moeref::cuda::few_rows {

template <class T, const GroupedProducts& kGradients>
struct ProductsOf {
  static void up(const GroupedShape& g, const UpProduct& u, Activation activation,
                 const ActivationParameters& parameters, cudaStream_t stream) {
    if (g.format != WeightFormat::none)
      return code_products(g.format).up(g, u, activation, parameters, stream);
    launch_up(g, up_weights(g, u, activation), u, activation, parameters, stream);
  }
  static void down(const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
    if (g.format != WeightFormat::none) return code_products(g.format).down(g, p, stream);
    launch_down(g, down_weights(g, p), p, stream);
  }
  static void whole_pass(const GroupedShape& g, const WholePass& p, Activation activation,
                         const ActivationParameters& parameters, cudaStream_t stream) {
    if (g.format != WeightFormat::none)
      return code_products(g.format).whole_pass(g, p, activation, parameters, stream);
    launch_whole_pass(g, up_weights(g, p.up, activation), down_weights(g, p.down), p, activation, parameters,
                      stream);
  }
  static PlainWeights<T> up_weights(const GroupedShape& g, const UpProduct& u, Activation activation) {
    return {static_cast<const T*>(u.weights), g.dim, is_gated(activation) ? 2 * g.inter_dim : g.inter_dim};
  }
  static PlainWeights<T> down_weights(const GroupedShape& g, const StoredProduct& p) {
    return {static_cast<const T*>(p.weights), g.inter_dim, g.dim};
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
      },
      whole_pass};
};

}  // namespace moeref::cuda::few_rows
