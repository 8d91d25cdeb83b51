// The two ways to a product, behind product().
#pragma once

#include "cuda_impl/gate/product.hpp"

namespace moeref::cuda {

/// Whether the tensor cores serve: operands of one 16-bit type, which `via` holds, 16-byte aligned, strides
/// multiples of 8; A and B along K, A along K and B along N, or A along M and B along N; partial sums, or in
/// the second form results of the operands' type. The sum goes over the first planes, then the next; B has
/// planes in the first two forms, in the first each with partial sums of its own.
bool tensor_cores_take(const ProductShape& shape, const Operand& a, const Operand& b, DataType via,
                       const ProductOutput& out);
void tensor_core_product(const ProductShape& shape, const Operand& a, const Operand& b,
                         const ProductOutput& out, cudaStream_t stream);

/// Any operands.
void fma_product(const ProductShape& shape, const Operand& a, const Operand& b, DataType via,
                 const ProductOutput& out, cudaStream_t stream);

}  // namespace moeref::cuda
