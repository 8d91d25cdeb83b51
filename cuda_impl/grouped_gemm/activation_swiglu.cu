// The two products with swiglu in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kSwigluProducts[2] = {
    {sm90::launch_up<Swiglu, 1>, sm90::launch_down_gradient<Swiglu, 1>},
    {sm90::launch_up<Swiglu, 2>, sm90::launch_down_gradient<Swiglu, 2>}};

}  // namespace moeref::cuda
