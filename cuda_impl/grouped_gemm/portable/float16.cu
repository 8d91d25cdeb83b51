// The portable products of float16: mma.sync with fp32 accumulation.
#include "cuda_impl/grouped_gemm/portable/kernels.cuh"

namespace moeref::cuda::portable {

constinit const GroupedProducts kFloat16Products = kProductsOf<PortableTile<__half>>;

}  // namespace moeref::cuda::portable
