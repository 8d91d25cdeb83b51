// The two products with quick_geglu in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kQuickGegluProducts[2] = {
    {sm90::launch_up<QuickGeglu, 1>, sm90::launch_down_gradient<QuickGeglu, 1>},
    {sm90::launch_up<QuickGeglu, 2>, sm90::launch_down_gradient<QuickGeglu, 2>}};

}  // namespace moeref::cuda
