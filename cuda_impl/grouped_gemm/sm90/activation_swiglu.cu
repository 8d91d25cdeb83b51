// The two products with swiglu in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.cuh"

namespace moeref::cuda::sm90 {

template struct ProductsOf<Activation::swiglu, 1>;
template struct ProductsOf<Activation::swiglu, 2>;

}  // namespace moeref::cuda::sm90
