// The portable products of one element type.
#pragma once

#include "cuda_impl/grouped_gemm/sm90/activation_products.hpp"

namespace moeref::cuda::portable {

struct PortableProducts {
  ActivationProducts activations[5];  // by Activation
  void (*down)(const GroupedShape&, const StoredProduct&, cudaStream_t);
  void (*input_gradient)(const GroupedShape&, const StoredProduct&, int up_width, cudaStream_t);
  void (*weight_gradient)(const GroupedShape&, const WeightGradient&, cudaStream_t);
};

/// Each compiled in a file of its own.
extern const PortableProducts kFloat32Products, kBfloat16Products;

}  // namespace moeref::cuda::portable
