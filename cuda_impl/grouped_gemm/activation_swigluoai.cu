// The two products with swigluoai in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kSwigluOaiProducts[2] = {
    {sm90::launch_up<SwigluOai, 1>, sm90::launch_down_gradient<SwigluOai, 1>},
    {sm90::launch_up<SwigluOai, 2>, sm90::launch_down_gradient<SwigluOai, 2>}};

}  // namespace moeref::cuda
