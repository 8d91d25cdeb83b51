// The two products with swiglu in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kSwigluProducts{sm90::launch_up<Swiglu>, sm90::launch_down_gradient<Swiglu>};

}  // namespace moeref::cuda
