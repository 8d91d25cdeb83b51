// The products of sm_90 where there are none: choose_path never takes them on another device.
#include "cuda_impl/grouped_gemm/planes/products.hpp"
#include "cuda_impl/grouped_gemm/sm90/products.hpp"

namespace moeref::cuda::sm90 {

const GroupedProducts kOneBlockProducts{}, kClusterProducts{}, kTurnProducts{}, kCodeProducts{};

}  // namespace moeref::cuda::sm90

namespace moeref::cuda::planes {

const GroupedProducts kProducts{};

}  // namespace moeref::cuda::planes
