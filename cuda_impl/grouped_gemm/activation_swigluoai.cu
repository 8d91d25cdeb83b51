// The two products with swigluoai in their epilogue.
#include "grouped_gemm/activation_products.hpp"
#include "grouped_gemm/epilogue_activation.cuh"
#include "grouped_gemm/launch_sm90.cuh"

namespace moeref::cuda {

const ActivationProducts kSwigluOaiProducts{sm90::launch_up<SwigluOai>,
                                            sm90::launch_down_gradient<SwigluOai>};

}  // namespace moeref::cuda
