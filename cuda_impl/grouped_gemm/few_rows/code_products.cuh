// The products of one weight format with codes.
#pragma once

#include "cuda_impl/grouped_gemm/few_rows/code_weights.cuh"
#include "cuda_impl/grouped_gemm/few_rows/kernels.cuh"
#include "cuda_impl/grouped_gemm/few_rows/products.hpp"

namespace moeref::cuda::few_rows {

template <WeightFormat kFormat, class Product>
CodeWeights<kFormat> weights_of(const Product& p, int k_extent, int width) {
  return {static_cast<const std::uint8_t*>(p.weights), p.scales.blocks, p.scales.experts, k_extent, width};
}

template <WeightFormat kFormat>
inline constexpr CodeProducts kCodeProductsOf = {
    [](const GroupedShape& g, const UpProduct& u, Activation activation,
       const ActivationParameters& parameters, cudaStream_t stream) {
      launch_up(g, weights_of<kFormat>(u, g.dim, is_gated(activation) ? 2 * g.inter_dim : g.inter_dim), u,
                activation, parameters, stream);
    },
    [](const GroupedShape& g, const StoredProduct& p, cudaStream_t stream) {
      launch_down(g, weights_of<kFormat>(p, g.inter_dim, g.dim), p, stream);
    }};

}  // namespace moeref::cuda::few_rows
