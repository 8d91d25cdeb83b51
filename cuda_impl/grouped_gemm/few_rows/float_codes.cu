// Products of weights in FP8, MXFP8 and MXFP4.
#include "cuda_impl/grouped_gemm/few_rows/code_products.cuh"

namespace moeref::cuda::few_rows {

constinit const CodeProducts kFp8Block128Products = kCodeProductsOf<WeightFormat::fp8_e4m3_block128>;
constinit const CodeProducts kMxfp8Products = kCodeProductsOf<WeightFormat::mxfp8>;
constinit const CodeProducts kMxfp4Products = kCodeProductsOf<WeightFormat::mxfp4>;

}  // namespace moeref::cuda::few_rows
