// Gradients of the routing weights and of the expert biases. Matrices given as void are of type `dtype`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "moeref/cuda/dtype.hpp"
#include "moeref/cuda/permutation.hpp"

namespace moeref::cuda {

/// out[t * slots + j] = sum over parts of dot_parts[row][part] (+ down_bias[expert] . dY[t] where down_bias
/// is not null), 0 for a slot without a row. dot_parts [R, parts], dy [tokens, dim], down_bias [E, dim], ids
/// [tokens, slots].
void router_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                            int slots, const float* dot_parts, int parts, const int* ids, const void* dy,
                            const void* down_bias, int dim, float* out, cudaStream_t stream);

/// Where the weight p stands on the expert's input: out[t * slots + j] = x[t] . rows[row] for the slot's row,
/// 0 for a slot without one, and rows[row] *= p, the gradient of x. x [tokens, dim], rows [R, dim], weights
/// [tokens, slots].
void input_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                           int slots, const void* x, const float* weights, int dim, void* rows, float* out,
                           cudaStream_t stream);

/// Where it stands after the product o, and activations were quantised before that: out[t * slots + j] =
/// dY[t] . o[row], 0 for a slot without a row. dy [tokens, dim], o [R, dim].
void output_weight_gradient(DataType dtype, const Permutation& permutation, std::int64_t slots_total,
                            int slots, const void* dy, const void* o, int dim, float* out,
                            cudaStream_t stream);

/// out[e] = sum over the rows r of expert e, in order, of rows[r] or, when `gathered`, of p_r
/// rows[row_token[r]]. out [E, width].
void bias_gradient(DataType dtype, const Permutation& permutation, int experts, const void* rows, int width,
                   bool gathered, void* out, cudaStream_t stream);

}  // namespace moeref::cuda
