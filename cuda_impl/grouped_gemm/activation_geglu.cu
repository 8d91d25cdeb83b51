// The two products with geglu in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kGegluProducts[2] = {
    {sm90::launch_up<Geglu, 1>, sm90::launch_down_gradient<Geglu, 1>},
    {sm90::launch_up<Geglu, 2>, sm90::launch_down_gradient<Geglu, 2>}};

}  // namespace moeref::cuda
