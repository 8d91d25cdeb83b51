// The two products with swiglu in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda {

const ActivationProducts kSwigluProducts[2] = {
    {sm90::launch_up<Swiglu, 1>, sm90::launch_down_gradient<Swiglu, 1>},
    {sm90::launch_up<Swiglu, 2>, sm90::launch_down_gradient<Swiglu, 2>}};

}  // namespace moeref::cuda
