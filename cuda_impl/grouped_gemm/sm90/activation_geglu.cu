// The two products with geglu in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda {

const ActivationProducts kGegluProducts[2] = {
    {sm90::launch_up<Geglu, 1>, sm90::launch_down_gradient<Geglu, 1>},
    {sm90::launch_up<Geglu, 2>, sm90::launch_down_gradient<Geglu, 2>}};

}  // namespace moeref::cuda
