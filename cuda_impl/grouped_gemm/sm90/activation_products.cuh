// ProductsOf an activation, for the file that instantiates it.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda::sm90 {

template <Activation A, int Strips, int Cluster>
const ActivationProducts ProductsOf<A, Strips, Cluster>::products = {
    launch_up<MathOf<A>, Strips, Cluster>, launch_down_gradient<MathOf<A>, Strips, Cluster>};

}  // namespace moeref::cuda::sm90
