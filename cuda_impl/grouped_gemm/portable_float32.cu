// The portable products of float32: fp32 multiply-adds throughout.
#include "grouped_gemm/portable_kernels.cuh"

namespace moeref::cuda::portable {

const PortableProducts kFloat32Products = kProductsOf<float>;

}  // namespace moeref::cuda::portable
