// Products of weights in FP8, MXFP8 and MXFP4.
#include "cuda_impl/grouped_gemm/few_rows/code_products.cuh"

namespace moeref::cuda::few_rows {

constinit const CodeProducts kFp8Block128Products = CodeProductsOf<WeightFormat::fp8_e4m3_block128>::products;
constinit const CodeProducts kMxfp8Products = CodeProductsOf<WeightFormat::mxfp8>::products;
constinit const CodeProducts kMxfp4Products = CodeProductsOf<WeightFormat::mxfp4>::products;

}  // namespace moeref::cuda::few_rows
