// ProductsOf an activation, for the file that instantiates it.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda::sm90 {

template <Activation A, int Strips, int Cluster>
const ActivationProducts ProductsOf<A, Strips, Cluster>::products = {
    launch_up<MathOf<A>, Strips, Cluster>, launch_down_gradient<MathOf<A>, Strips, Cluster>};

template <Activation A>
const ActivationProducts CodeProductsOf<A>::products = {launch_up_of<E4m3Operands, MathOf<A>, 2, 2>,
                                                        launch_down_gradient<MathOf<A>, 2, 2>};

}  // namespace moeref::cuda::sm90
