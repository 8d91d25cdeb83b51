// The two products with quick_geglu in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.cuh"

namespace moeref::cuda::sm90 {

template struct ProductsOf<Activation::quick_geglu, 1>;
template struct ProductsOf<Activation::quick_geglu, 2>;

}  // namespace moeref::cuda::sm90
