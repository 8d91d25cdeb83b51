// The two products with swigluoai in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda {

const ActivationProducts kSwigluOaiProducts[2] = {
    {sm90::launch_up<SwigluOai, 1>, sm90::launch_down_gradient<SwigluOai, 1>},
    {sm90::launch_up<SwigluOai, 2>, sm90::launch_down_gradient<SwigluOai, 2>}};

}  // namespace moeref::cuda
