// The gate's three products: logits x W^T, and in the backward pass dz W and dz^T x. bfloat16 operands go
// through the tensor cores, and fp32 ones beside them, W and the gradient of the logits, as three bfloat16
// planes; everything else goes through fused multiply-adds in fp32 or fp64.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "cuda_impl/memory/typed_element.cuh"

namespace moeref::cuda {

/// Element (i, j) is data[i * row_stride + j * col_stride], summed over `planes` that are plane_stride apart;
/// one of the strides is 1. A product of planes is that of all pairs of them, but for those that are too
/// small to count beside the rounding of fp32.
struct Operand {
  const void* data;
  DataType type;
  std::int64_t row_stride, col_stride;
  int planes = 1;
  std::int64_t plane_stride = 0;
};

/// C [M, N] = A [M, K] B [K, N]. Sums over K are cut into `splits` ranges of k_per_split.
struct ProductShape {
  std::int64_t m, n, k;
  std::int64_t k_per_split;  // a multiple of 64
  int splits;
};

/// Cuts K so that about two blocks per multiprocessor of an H200 have work, on any device: the
/// order of additions depends on the shape alone.
ProductShape split_product(std::int64_t m, std::int64_t n, std::int64_t k);
/// The same in one range.
ProductShape whole_product(std::int64_t m, std::int64_t n, std::int64_t k);

/// Where results go: partial sums [splits, M, N] (or [planes of B, splits, M, N]), double where `via` of the
/// product is float64, else float; or, from one range, C itself in `type`, rounded to `via` first, or on top
/// of what it holds if `add`.
struct ProductOutput {
  void* partial = nullptr;
  void* stored = nullptr;
  DataType type = DataType::float32;
  bool add = false;
};

/// The planes that an fp32 value is held in, exactly where its last bit is at least 2^-133.
constexpr int kPlanes = 3;

/// Operands are rounded to `via` on the way; sums are in fp32, or fp64 where `via` is float64. Rows of A or B
/// whose stride is longer than the matrix is wide hold zeros there. Gives the number of partial sums.
int product(const ProductShape& shape, const Operand& a, const Operand& b, DataType via,
            const ProductOutput& out, cudaStream_t stream);

/// planes [count_of_planes, count] of bfloat16, or one of float16: each holds what the ones before it leave
/// of the fp32 values, rounded.
void split_in_planes(const float* values, std::int64_t count, DataType type, int count_of_planes,
                     void* planes, cudaStream_t stream);

/// out [count] in `type` = sum over parts of parts[part][count], from the first to the last, rounded to `via`
/// on the way. The parts are double where `via` is float64, else float.
void sum_parts(const void* parts, int count_of_parts, std::int64_t count, DataType via, DataType type,
               void* out, cudaStream_t stream);

}  // namespace moeref::cuda
