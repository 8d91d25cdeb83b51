#include "cuda_impl/grouped_gemm/planes/products.hpp"
#include "cuda_impl/grouped_gemm/planes/tile.cuh"
#include "cuda_impl/grouped_gemm/portable/kernels.cuh"

namespace moeref::cuda::planes {

constinit const GroupedProducts kProducts = portable::kProductsOf<PlanesTile>;

}  // namespace moeref::cuda::planes
