// The two products with swigluoai in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.cuh"

namespace moeref::cuda::sm90 {

template struct ProductsOf<Activation::swigluoai, 1>;
template struct ProductsOf<Activation::swigluoai, 2>;

}  // namespace moeref::cuda::sm90
