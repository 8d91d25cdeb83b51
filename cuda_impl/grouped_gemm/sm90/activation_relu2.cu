// The two products with relu2 in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.cuh"

namespace moeref::cuda::sm90 {

template struct ProductsOf<Activation::relu2, 1>;
template struct ProductsOf<Activation::relu2, 2>;

}  // namespace moeref::cuda::sm90
