// The two products with geglu in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kGegluProducts{sm90::launch_up<Geglu>, sm90::launch_down_gradient<Geglu>};

}  // namespace moeref::cuda
