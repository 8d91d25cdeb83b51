// The portable products: any widths, compute capability 8.0 and newer.
#pragma once

#include "cuda_impl/grouped_gemm/product_table.hpp"

namespace moeref::cuda::portable {

/// Each compiled in a file of its own.
extern const GroupedProducts kFloat32Products, kBfloat16Products, kFloat16Products;

}  // namespace moeref::cuda::portable
