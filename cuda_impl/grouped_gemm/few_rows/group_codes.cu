// Products of weights in NVFP4 and INT4.
#include "cuda_impl/grouped_gemm/few_rows/code_products.cuh"

namespace moeref::cuda::few_rows {

template const CodeProducts& products_of_codes<WeightFormat::nvfp4>();
template const CodeProducts& products_of_codes<WeightFormat::int4_group32>();
template const CodeProducts& products_of_codes<WeightFormat::int4_group128>();

}  // namespace moeref::cuda::few_rows
