// The portable products of bfloat16: mma.sync with fp32 accumulation.
#include "cuda_impl/grouped_gemm/portable/kernels.cuh"

namespace moeref::cuda::portable {

constinit const GroupedProducts kBfloat16Products = kProductsOf<PortableTile<__nv_bfloat16>>;

}  // namespace moeref::cuda::portable
