// The small kernels between the layer's parts.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

/// mask[t] = 1 where padding[t] is 0.
void token_mask(std::int64_t tokens, const std::uint8_t* padding, std::uint8_t* mask, cudaStream_t stream);

/// z[t] = sigmoid(z[t]).
void sigmoid_in_place(std::int64_t tokens, float* z, cudaStream_t stream);

/// to[i] = from[i], rounded to nearest even where its type is coarser. Matrix types.
void convert_elements(std::int64_t count, const void* from, DataType from_type, void* to, DataType to_type,
                      cudaStream_t stream);

/// d[t] *= s[t] (1 - s[t]): from the cotangent of s = sigmoid(z) to that of z.
void sigmoid_gradient(std::int64_t tokens, const float* s, float* d, cudaStream_t stream);

}  // namespace moeref::cuda
