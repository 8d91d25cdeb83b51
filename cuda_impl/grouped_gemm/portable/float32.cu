// The portable products of float32: fp32 multiply-adds throughout.
#include "cuda_impl/grouped_gemm/portable/kernels.cuh"

namespace moeref::cuda::portable {

constinit const GroupedProducts kFloat32Products = kProductsOf<PortableTile<float>>;

}  // namespace moeref::cuda::portable
