// The products of one weight format with codes.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/code_weights.cuh"
#include "cuda_impl/grouped_gemm/few_rows/kernels.cuh"
#include "cuda_impl/grouped_gemm/few_rows/products.hpp"
#include "cuda_impl/grouped_gemm/few_rows/whole_pass.cuh"

namespace moeref::cuda::few_rows {

template <WeightFormat kFormat, class Product>
CodeWeights<kFormat> weights_of(const Product& p, int k_extent, int width) {
  return {static_cast<const std::uint8_t*>(p.weights), p.scales.blocks, p.scales.experts, k_extent, width};
}

template <WeightFormat kFormat>
struct CodeProductsOf {
  static CodeWeights<kFormat> up_weights(const GroupedShape& g, const UpProduct& u, Activation activation) {
    return weights_of<kFormat>(u, g.dim, is_gated(activation) ? 2 * g.inter_dim : g.inter_dim);
  }
  static CodeWeights<kFormat> down_weights(const GroupedShape& g, const StoredProduct& p) {
    return weights_of<kFormat>(p, g.inter_dim, g.dim);
  }
  static constexpr CodeProducts products = {
      [](const GroupedShape& g, const UpProduct& u, Activation activation,
         const ActivationParameters& parameters, cudaStream_t stream) {
        launch_up(g, up_weights(g, u, activation), u, activation, parameters, stream);
      },
      [](const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
        launch_down(g, down_weights(g, p), p, stream);
      },
      [](const GroupedShape& g, const WholePass& p, Activation activation,
         const ActivationParameters& parameters, cudaStream_t stream) {
        launch_whole_pass(g, up_weights(g, p.up, activation), down_weights(g, p.down), p, activation,
                          parameters, stream);
      }};
};

template <WeightFormat kFormat>
const CodeProducts& products_of_codes() {
  return CodeProductsOf<kFormat>::products;
}

}  // namespace moeref::cuda::few_rows
