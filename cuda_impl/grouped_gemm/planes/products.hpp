// The products of float32 on the tensor cores of sm_90a, three bfloat16 planes of each number: any widths
// from 32 on.
#pragma once

#include "cuda_impl/grouped_gemm/product_table.hpp"

namespace moeref::cuda::planes {

extern const GroupedProducts kProducts;

}  // namespace moeref::cuda::planes
