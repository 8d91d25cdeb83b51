// Products of weights in FP8, MXFP8 and MXFP4.
#include "cuda_impl/grouped_gemm/few_rows/code_products.cuh"

namespace moeref::cuda::few_rows {

template const CodeProducts& products_of_codes<WeightFormat::fp8_e4m3_block128>();
template const CodeProducts& products_of_codes<WeightFormat::mxfp8>();
template const CodeProducts& products_of_codes<WeightFormat::mxfp4>();

}  // namespace moeref::cuda::few_rows
