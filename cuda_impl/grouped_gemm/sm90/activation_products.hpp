// The wgmma products with an activation in their epilogue, each activation's compiled in a file of its own.
#pragma once

#include "cuda_impl/grouped_gemm/product_table.hpp"

namespace moeref::cuda::sm90 {

/// One block per tile, or clusters of two.
template <Activation A, int Strips, int Cluster>
struct ProductsOf {
  static const ActivationProducts products;
};

/// Clusters of two; the up product of codes by codes.
template <Activation A>
struct CodeProductsOf {
  static const ActivationProducts products;
};

}  // namespace moeref::cuda::sm90
