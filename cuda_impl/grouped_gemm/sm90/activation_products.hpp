// The products with an activation in their epilogue: a pair of functions per activation, each pair compiled
// in a file of its own, activation_*.cu (wgmma) and portable_*.cu.
#pragma once

#include "cuda_impl/grouped_gemm/grouped_gemm.hpp"

namespace moeref::cuda {

struct ActivationProducts {
  void (*up)(const GroupedShape&, const UpProduct&, const ActivationParameters&, cudaStream_t);
  void (*down_gradient)(const GroupedShape&, const DownGradient&, const ActivationParameters&, cudaStream_t);
};

/// Index 0: one block a tile; 1: clusters of two.
extern const ActivationProducts kSwigluProducts[2], kSwigluOaiProducts[2], kQuickGegluProducts[2],
    kGegluProducts[2], kRelu2Products[2];

}  // namespace moeref::cuda
