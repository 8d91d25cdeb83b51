// What stands behind the products of quantised operands (SPEC.md 11.1): their float32 sums become the rows
// that the documented products' epilogues would store.
#pragma once

#include <cuda_runtime_api.h>

#include "cuda_impl/permutation/chunk_rows.hpp"
#include "moeref/cuda/activation.hpp"
#include "moeref/cuda/dtype.hpp"

namespace moeref::cuda {

struct UpSums {
  ChunkRows which;
  const float* sums;        // [R, up_width]
  const void* bias;         // [E, up_width] or null
  const float* row_weight;  // [R], or null: weighed elsewhere
  int inter_dim;
  void *h, *a;  // [R, up_width] or null, [R, I]
};
/// H = sums (+ bias), rounded to dtype; A' = act(H) (* row weight).
void store_up_sums(DataType dtype, const UpSums& up, Activation activation,
                   const ActivationParameters& parameters, cudaStream_t stream);

struct DownSums {
  ChunkRows which;
  const float* sums;        // [R, D]
  const void* bias;         // [E, D] or null
  const float* row_weight;  // [R]
  bool scale_product;       // the product too, and not the bias alone
  int dim;
  void *products, *rows;  // [R, D]: before that scale, or null; after it
};
void store_down_sums(DataType dtype, const DownSums& down, cudaStream_t stream);

}  // namespace moeref::cuda
