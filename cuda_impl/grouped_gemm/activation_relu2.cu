// The two products with relu2 in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kRelu2Products[2] = {
    {sm90::launch_up<Relu2, 1>, sm90::launch_down_gradient<Relu2, 1>},
    {sm90::launch_up<Relu2, 2>, sm90::launch_down_gradient<Relu2, 2>}};

}  // namespace moeref::cuda
