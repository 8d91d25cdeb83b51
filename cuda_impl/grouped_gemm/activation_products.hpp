// One entry per activation: each is compiled in its own file, activation_*.cu.
#pragma once

#include "grouped_gemm/grouped_gemm.hpp"

namespace moeref::cuda {

struct ActivationProducts {
  void (*up)(const GroupedShape&, const UpProduct&, const ActivationParameters&, cudaStream_t);
  void (*down_gradient)(const GroupedShape&, const DownGradient&, const ActivationParameters&, cudaStream_t);
};

extern const ActivationProducts kSwigluProducts, kSwigluOaiProducts, kQuickGegluProducts, kGegluProducts,
    kRelu2Products;

}  // namespace moeref::cuda
