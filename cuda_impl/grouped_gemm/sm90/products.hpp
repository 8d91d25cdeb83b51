// The wgmma side of grouped_gemm.hpp.
#pragma once

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"

namespace moeref::cuda::sm90 {

void up_product(const GroupedShape& shape, const UpProduct& product, Activation activation,
                const ActivationParameters& parameters, cudaStream_t stream);
void down_product(const GroupedShape& shape, const StoredProduct& product, cudaStream_t stream);
void input_gradient_product(const GroupedShape& shape, const StoredProduct& product, int up_width,
                            cudaStream_t stream);
void down_gradient_product(const GroupedShape& shape, const DownGradient& product, Activation activation,
                           const ActivationParameters& parameters, cudaStream_t stream);
void weight_gradient_product(const GroupedShape& shape, const WeightGradient& product, cudaStream_t stream);

}  // namespace moeref::cuda::sm90
