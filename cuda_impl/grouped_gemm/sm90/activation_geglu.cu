// The two products with geglu in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.cuh"

namespace moeref::cuda::sm90 {

template struct ProductsOf<Activation::geglu, 1>;
template struct ProductsOf<Activation::geglu, 2>;

}  // namespace moeref::cuda::sm90
