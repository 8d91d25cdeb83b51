// The two products with relu2 in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda {

const ActivationProducts kRelu2Products[2] = {
    {sm90::launch_up<Relu2, 1>, sm90::launch_down_gradient<Relu2, 1>},
    {sm90::launch_up<Relu2, 2>, sm90::launch_down_gradient<Relu2, 2>}};

}  // namespace moeref::cuda
