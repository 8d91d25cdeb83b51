// Products of weights in NVFP4 and INT4.
#include "cuda_impl/grouped_gemm/few_rows/code_products.cuh"

namespace moeref::cuda::few_rows {

constinit const CodeProducts kNvfp4Products = CodeProductsOf<WeightFormat::nvfp4>::products;
constinit const CodeProducts kInt4Group32Products = CodeProductsOf<WeightFormat::int4_group32>::products;
constinit const CodeProducts kInt4Group128Products = CodeProductsOf<WeightFormat::int4_group128>::products;

}  // namespace moeref::cuda::few_rows
