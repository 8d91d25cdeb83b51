// Products of weights in NVFP4 and INT4.
#include "cuda_impl/grouped_gemm/few_rows/code_products.cuh"

namespace moeref::cuda::few_rows {

constinit const CodeProducts kNvfp4Products = kCodeProductsOf<WeightFormat::nvfp4>;
constinit const CodeProducts kInt4Group32Products = kCodeProductsOf<WeightFormat::int4_group32>;
constinit const CodeProducts kInt4Group128Products = kCodeProductsOf<WeightFormat::int4_group128>;

}  // namespace moeref::cuda::few_rows
