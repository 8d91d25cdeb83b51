// The two products with quick_geglu in their epilogue.
#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"
#include "cuda_impl/grouped_gemm/sm90/epilogue_activation.cuh"
#include "cuda_impl/grouped_gemm/sm90/launch.cuh"

namespace moeref::cuda {

const ActivationProducts kQuickGegluProducts[2] = {
    {sm90::launch_up<QuickGeglu, 1>, sm90::launch_down_gradient<QuickGeglu, 1>},
    {sm90::launch_up<QuickGeglu, 2>, sm90::launch_down_gradient<QuickGeglu, 2>}};

}  // namespace moeref::cuda
