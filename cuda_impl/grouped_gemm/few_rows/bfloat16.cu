// The products for few rows of bfloat16.
#include "cuda_impl/grouped_gemm/few_rows/products_of.cuh"
#include "cuda_impl/grouped_gemm/portable/products.hpp"

namespace moeref::cuda::few_rows {

constinit const GroupedProducts kBfloat16Products =
    ProductsOf<__nv_bfloat16, portable::kBfloat16Products>::products;

}  // namespace moeref::cuda::few_rows
