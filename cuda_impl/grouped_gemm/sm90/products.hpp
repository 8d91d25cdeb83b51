// The wgmma products of sm_90: bfloat16, widths that are multiples of 8.
#pragma once

#include "cuda_impl/grouped_gemm/product_table.hpp"

namespace moeref::cuda::sm90 {

/// One block per tile, or two that share the weights they load.
extern const GroupedProducts kOneBlockProducts, kClusterProducts;
/// Clusters whose warpgroups each have tiles of their own.
extern const GroupedProducts kTurnProducts;
/// Clusters that multiply codes of e4m3 by such; gradients as kClusterProducts, of numbers.
extern const GroupedProducts kCodeProducts;

}  // namespace moeref::cuda::sm90
