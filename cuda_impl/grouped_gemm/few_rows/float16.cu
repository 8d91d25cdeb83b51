// The products for few rows of float16.
#include "cuda_impl/grouped_gemm/few_rows/products_of.cuh"
#include "cuda_impl/grouped_gemm/portable/products.hpp"

namespace moeref::cuda::few_rows {

constinit const GroupedProducts kFloat16Products = ProductsOf<__half, portable::kFloat16Products>::products;

}  // namespace moeref::cuda::few_rows
